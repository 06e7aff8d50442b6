"""Colors of the scenes: one mixture of five hue clusters for objects and backgrounds alike."""

import numpy as np

__all__ = ["draw_color", "draw_tone_pair", "hsv_to_rgb", "luminance"]

# Centers of the hue clusters (turns). The spread is so wide that they overlap, and no class or
# background family has a cluster of its own.
_HUES = (0.04, 0.12, 0.32, 0.55, 0.72)
_HUE_SIGMA = 0.06


def hsv_to_rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Convert one color; all in [0, 1] (hue in turns, periodic). Returns (3,) float32 RGB."""
    offsets = np.array([5.0, 3.0, 1.0])
    k = (offsets + (hue % 1.0) * 6.0) % 6.0
    rgb = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return rgb.astype(np.float32)


def luminance(rgb: np.ndarray) -> float:
    """Return the perceived lightness of a color in [0, 1] (Rec. 601 weights)."""
    return float(0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2])


def draw_color(rng: np.random.Generator, *, value: tuple[float, float] = (0.3, 0.95)) -> np.ndarray:
    """Draw an RGB color (3,) float32 in [0, 1] from the common mixture."""
    hue = _HUES[int(rng.integers(len(_HUES)))] + rng.normal(0.0, _HUE_SIGMA)
    return hsv_to_rgb(hue, rng.uniform(0.15, 0.85), rng.uniform(*value))


def draw_tone_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a dark and a light color, at least 0.35 apart in luminance (visible when small)."""
    while True:
        dark = draw_color(rng, value=(0.08, 0.45))
        light = draw_color(rng, value=(0.7, 1.0))
        if luminance(light) - luminance(dark) >= 0.35:
            return dark, light
