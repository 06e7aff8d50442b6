"""Outlines: signed distances (negative inside) of bodies and heads in the object's own frame.

The frame has x to the front, y down; a body reaches from about -1 to 1. Every function takes
coordinate arrays of one shape and returns an array of that shape, float32.
"""

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["BODIES", "HEADS", "blob", "capsule", "polygon"]

Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def ellipse(x: np.ndarray, y: np.ndarray, a: float, b: float) -> np.ndarray:
    """Approximate distance to an ellipse at the origin with half axes a and b."""
    return (np.sqrt((x / a) ** 2 + (y / b) ** 2) - 1.0) * min(a, b)


def capsule(
    x: np.ndarray, y: np.ndarray, start: tuple[float, float], end: tuple[float, float], r: float
) -> np.ndarray:
    """Distance to a thick line segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.hypot(x - start[0] - t * dx, y - start[1] - t * dy) - r


def polygon(x: np.ndarray, y: np.ndarray, points: Sequence[tuple[float, float]]) -> np.ndarray:
    """Distance to a simple polygon (even-odd rule for the sign)."""
    squared = np.full(x.shape, np.inf, dtype=np.float32)
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, (*points[1:], points[0]), strict=True):
        ex, ey = x1 - x0, y1 - y0
        t = np.clip(((x - x0) * ex + (y - y0) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        squared = np.minimum(squared, (x - x0 - t * ex) ** 2 + (y - y0 - t * ey) ** 2)
        if y0 != y1:
            crossing = ((y0 > y) != (y1 > y)) & (x < ex * (y - y0) / ey + x0)
            inside ^= crossing
    distance = np.sqrt(squared)
    return np.where(inside, -distance, distance)


def blob(x: np.ndarray, y: np.ndarray, phases: np.ndarray, roughness: float) -> np.ndarray:
    """Distance to a rock-like disc whose radius waves with the angle; phases (k,) in radians."""
    angle = np.arctan2(y, x)
    radius = np.full(x.shape, 0.75, dtype=np.float32)
    for k, phase in enumerate(phases, start=2):
        radius = radius + np.float32(roughness / k) * np.sin(k * angle + np.float32(phase))
    return np.hypot(x, y) - radius


def _boat(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    hull = polygon(x, y, [(-0.9, 0.12), (0.8, 0.12), (0.52, 0.56), (-0.62, 0.56)]) - 0.03
    sail = polygon(x, y, [(-0.1, -0.88), (-0.1, 0.02), (-0.78, 0.02)])
    jib = polygon(x, y, [(0.0, -0.72), (0.52, 0.02), (0.0, 0.02)])
    mast = capsule(x, y, (-0.05, -0.95), (-0.05, 0.2), 0.035)
    return np.minimum(np.minimum(hull, sail), np.minimum(jib, mast))


def _fish(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    trunk = ellipse(x + 0.02, y, 0.7, 0.4)
    tail = polygon(x, y, [(-0.52, 0.0), (-1.05, -0.4), (-0.9, 0.0), (-1.05, 0.4)]) - 0.02
    back = polygon(x, y, [(-0.36, -0.28), (-0.2, -0.62), (0.28, -0.3)]) - 0.02
    belly = polygon(x, y, [(-0.15, 0.3), (-0.22, 0.58), (0.12, 0.33)]) - 0.02
    return np.minimum(np.minimum(trunk, tail), np.minimum(back, belly))


def _beetle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    distance = ellipse(x + 0.15, y, 0.68, 0.46)
    for foot, hip in ((-0.75, -0.4), (-0.1, -0.1), (0.5, 0.2)):
        # Both sides at once: the legs mirror at y = 0.
        distance = np.minimum(distance, capsule(x, np.abs(y), (hip, 0.3), (foot, 0.72), 0.045))
    return distance


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1.0


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx, dy = np.abs(x) - 0.72, np.abs(y) - 0.72
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0) - 0.15


def _hexagon(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x) * 0.866 + np.abs(y) * 0.5, np.abs(y)) - 0.95


def _diamond(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (np.abs(x) + np.abs(y) - 1.25) * 0.707


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # A triangle wave over the angle: eight straight spikes.
    wave = np.abs(((np.arctan2(y, x) * (8 / (2 * np.pi))) % 1.0) - 0.5) * 2.0
    return (np.hypot(x, y) - (0.72 + 0.58 * wave)) * 0.7


def _plus(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    u, v = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(u - 1.12, v - 0.56), np.maximum(u - 0.56, v - 1.12)) - 0.06


BODIES: dict[str, Outline] = {"boat": _boat, "fish": _fish, "beetle": _beetle}
# Heads are unit shapes of about the area of a disc of radius 1.
HEADS: dict[str, Outline] = {
    "ringed": _disc,
    "striped": _square,
    "dotted": _hexagon,
    "checkered": _diamond,
    "spiked": _star,
    "crossed": _plus,
}
