"""One object or distractor, drawn into a patch of its own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from weaksam_d2.data.datasets.scenes.noise import fractal_noise
from weaksam_d2.data.datasets.scenes.palette import draw_color, draw_tone_pair
from weaksam_d2.data.datasets.scenes.shapes import BODIES, HEADS, blob, capsule
from weaksam_d2.data.datasets.scenes.texture import BODY_TEXTURES, HEAD_TEXTURES

__all__ = ["SCENE_CLASSES", "Patch", "class_parts", "draw_distractor", "draw_object"]

# Head and body of class c: two classes, three apart, share a body; tag partners (0-1, 2-3, 4-5)
# never do, so that co-occurrence and the shared body are independent causes of confusion.
SCENE_CLASSES = (
    "ringed_boat",
    "striped_fish",
    "dotted_beetle",
    "checkered_boat",
    "spiked_fish",
    "crossed_beetle",
)
# Where a head sits (center) and how large it is (radius), in the frame of the body.
_HEAD_PLACE = {"boat": (0.86, 0.06), "fish": (0.66, 0.0), "beetle": (0.62, 0.0)}
_HEAD_RADIUS = 0.235
_LIGHT = (-0.5, -0.7)  # from the upper left, in image axes
_MARGIN = 3  # pixels around a patch, for soft edges


@dataclass(frozen=True)
class Patch:
    """A drawn thing. All arrays have one (h, w); masks are ``alpha`` above one half."""

    color: np.ndarray  # float32 (h, w, 3) in [0, 1]
    alpha: np.ndarray  # float32 (h, w)
    mask: np.ndarray  # bool, the whole thing
    head: np.ndarray  # bool, its head (empty for distractors)


@dataclass(frozen=True)
class _Pose:
    """Similarity between pixels of a patch and the frame of the thing."""

    angle: float  # radians
    mirror: bool
    squeeze: float  # height of the thing relative to its design
    pixels: float = 1.0  # per unit of the frame

    def frame(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map offsets from the center in pixels to the frame."""
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = (cos * x + sin * y) / np.float32(self.pixels)
        v = (cos * y - sin * x) / np.float32(self.pixels * self.squeeze)
        return (-u if self.mirror else u), v


Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def class_parts(category: int) -> tuple[str, str]:
    """Return the names of head and body of a class."""
    head, body = SCENE_CLASSES[category].split("_")
    return head, body


def draw_object(rng: np.random.Generator, category: int, side: float) -> Patch:
    """Draw an object of a class whose longest side is ``side`` pixels."""
    head_name, body_name = class_parts(category)
    center, radius = _HEAD_PLACE[body_name], _HEAD_RADIUS * rng.uniform(0.93, 1.08)

    def head(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return HEADS[head_name]((x - center[0]) / radius, (y - center[1]) / radius) * radius

    def whole(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.minimum(BODIES[body_name](x, y), head(x, y))

    pose, x, y = _fit(rng, whole, side)
    u, v = pose.frame(x, y)
    body_distance = BODIES[body_name](u, v) * pose.pixels
    head_distance = head(u, v) * pose.pixels
    color = _body_color(rng, BODY_TEXTURES[body_name](u, v), body_distance, side)
    dark, light = draw_tone_pair(rng)
    tone = HEAD_TEXTURES[head_name]((u - center[0]) / radius, (v - center[1]) / radius)[..., None]
    head_color = _shade(dark * (1 - tone) + light * tone, head_distance, side * 0.12, 0.25)
    head_alpha = _alpha(head_distance)[..., None]
    color = color * (1 - head_alpha) + head_color * head_alpha
    distance = np.minimum(body_distance, head_distance)
    alpha = _alpha(distance)
    mask = alpha > 0.5
    return Patch(color, alpha, mask, mask & (head_distance < 0))


def draw_distractor(rng: np.random.Generator, side: float) -> Patch:
    """Draw an unannotated thing: a body without a head, a rock or a pole. Never a head."""
    kind = rng.choice(["body", "rock", "pole"], p=[0.4, 0.4, 0.2])
    if kind == "body":
        name = str(rng.choice(list(BODIES)))
        outline, texture = BODIES[name], BODY_TEXTURES[name]
    else:
        phases, roughness = rng.uniform(0, 2 * np.pi, 5), rng.uniform(0.1, 0.5)
        bend = rng.uniform(-0.4, 0.4)

        def outline(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            if kind == "rock":
                return blob(x, y, phases, roughness)
            return capsule(x, y + bend * x * x, (-0.95, 0.0), (0.95, 0.0), 0.06)

        def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.full(x.shape, 0.7, dtype=np.float32)

    pose, x, y = _fit(rng, outline, side)
    u, v = pose.frame(x, y)
    distance = outline(u, v) * np.float32(pose.pixels)
    alpha = _alpha(distance)
    mask = alpha > 0.5
    color = _body_color(rng, texture(u, v), distance, side)
    return Patch(color, alpha, mask, np.zeros_like(mask))


def _fit(
    rng: np.random.Generator, outline: Outline, side: float
) -> tuple[_Pose, np.ndarray, np.ndarray]:
    """Draw a pose and find scale and center that give the longest side; return pixel offsets."""
    angle = np.deg2rad(rng.uniform(-25, 25))
    mirror, squeeze = bool(rng.random() < 0.5), rng.uniform(0.85, 1.15)
    probe = np.linspace(-1.6, 1.6, 128, dtype=np.float32)
    x, y = np.meshgrid(probe, probe)
    rows, columns = np.nonzero(outline(*_Pose(angle, mirror, squeeze).frame(x, y)) < 0)
    step = probe[1] - probe[0]
    left, right = probe[columns.min()], probe[columns.max()] + step
    top, bottom = probe[rows.min()], probe[rows.max()] + step
    pixels = side / max(right - left, bottom - top)
    width = int(np.ceil((right - left) * pixels)) + 2 * _MARGIN
    height = int(np.ceil((bottom - top) * pixels)) + 2 * _MARGIN
    center_x, center_y = (left + right - step) / 2 * pixels, (top + bottom - step) / 2 * pixels
    x, y = np.meshgrid(
        np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2 - center_x),
        np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2 - center_y),
    )
    return _Pose(angle, mirror, squeeze, float(pixels)), x, y


def _alpha(distance: np.ndarray) -> np.ndarray:
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def _body_color(
    rng: np.random.Generator, tone: np.ndarray, distance: np.ndarray, side: float
) -> np.ndarray:
    main, second = draw_color(rng), draw_color(rng)
    grain = fractal_noise(rng, tone.shape, (6, 6), 3)[..., None]
    patches = np.clip((fractal_noise(rng, tone.shape, (2, 2), 2)[..., None] - 0.45) * 4, 0, 1)
    color = main * (1 - 0.45 * patches) + second * 0.45 * patches
    color = color * (0.45 + 0.55 * tone[..., None]) * (0.75 + 0.5 * grain)
    return _shade(color, distance, side * 0.16, 0.45)


def _shade(color: np.ndarray, distance: np.ndarray, bevel: float, strength: float) -> np.ndarray:
    """Light a color as if the thing bulged within ``bevel`` pixels of its outline."""
    rise = np.clip(-distance / np.float32(max(bevel, 1.0)), 0.0, 1.0)
    bulge = np.sqrt(np.clip(1.0 - (1.0 - rise) ** 2, 0.0, 1.0)) * np.float32(max(bevel, 1.0))
    slope_y, slope_x = np.gradient(bulge)
    toward = -(slope_x * _LIGHT[0] + slope_y * _LIGHT[1])
    lit = 1.0 - np.clip(toward, -1.0, 1.0) * -strength
    rim = 0.6 + 0.4 * np.clip(-distance / 1.8, 0.0, 1.0)  # a thin dark outline
    return np.clip(color * (lit * rim)[..., None], 0.0, 1.0).astype(np.float32)
