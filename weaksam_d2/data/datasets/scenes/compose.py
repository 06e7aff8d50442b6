"""One scene from its seed and index: background, distractors, objects, camera."""

from dataclasses import dataclass

import numpy as np

from weaksam_d2.data.datasets.scenes.noise import blur
from weaksam_d2.data.datasets.scenes.objects import (
    SCENE_CLASSES,
    Patch,
    draw_distractor,
    draw_object,
)
from weaksam_d2.data.datasets.scenes.palette import draw_color
from weaksam_d2.data.datasets.scenes.texture import BACKGROUNDS

__all__ = ["MAX_HEAD_LOSS", "MAX_LOSS", "Scene", "SceneObject", "render_scene"]

MAX_LOSS = 0.4  # share of its pixels that an object may lose to others in front
MAX_HEAD_LOSS = 0.6
_MAX_CUT = 0.15  # share that the frame may cut off
_TRIES = 20
_COUNT_PROBABILITIES = (0.35, 0.3, 0.2, 0.15)  # of 1, 2, 3, 4 objects
_LONGEST_SIDE = (256, 320)


@dataclass(frozen=True)
class SceneObject:
    """An object as the picture shows it; masks are bool (H, W)."""

    category: int
    visible: np.ndarray  # what is seen; the box is tight around it
    head: np.ndarray  # the seen part of the head
    full: np.ndarray  # as if nothing stood in front (within the frame)
    head_share: float  # head pixels / all pixels, before frame and occlusion
    visible_share: float  # visible pixels / full pixels
    head_visible_share: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight half-open XYXY box of the visible pixels."""
        rows, columns = np.flatnonzero(self.visible.any(1)), np.flatnonzero(self.visible.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Scene:
    """A rendered picture, uint8 RGB (H, W, 3), and its objects from back to front."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]


@dataclass
class _Placed:
    category: int
    full: np.ndarray
    full_head: np.ndarray
    visible: np.ndarray
    head_share: float
    head_pixels: int  # before frame and occlusion


def render_scene(
    seed: int, index: int, *, bias: float = 0.0, scale: tuple[float, float] = (0.15, 0.7)
) -> Scene:
    """Render image ``index`` of a set; a function of the arguments alone.

    Args:
        bias: probability that the next object is the partner (0-1, 2-3, 4-5) of the one before,
            and that the background family is that of the first object.
        scale: range of an object's longest side, relative to the shorter image side.

    Raises:
        ValueError: ``bias`` or ``scale`` out of range.
    """
    if not 0 <= bias <= 1 or not 0.05 <= scale[0] <= scale[1] <= 0.9:
        raise ValueError(f"bias {bias} must be in [0, 1], scale {scale} rise within [0.05, 0.9]")
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    height, width = _draw_size(rng)
    categories = _draw_categories(rng, bias)
    family = categories[0] % len(BACKGROUNDS)
    if rng.random() >= bias:
        family = int(rng.integers(len(BACKGROUNDS)))
    image = _background(rng, (height, width), family)
    for _ in range(int(rng.integers(2, 7))):
        patch = draw_distractor(rng, min(height, width) * _log_uniform(rng, (0.1, 0.45)))
        _paint(image, patch, _corner(rng, patch, (height, width)))
    placed: list[_Placed] = []
    for category in categories:
        side = min(height, width) * _log_uniform(rng, scale)
        _place(rng, image, placed, category, draw_object(rng, category, side))
    return Scene(_camera(rng, image), tuple(_finish(item) for item in placed))


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    longest = int(rng.integers(_LONGEST_SIDE[0], _LONGEST_SIDE[1] + 1))
    shorter = int(round(longest * rng.uniform(0.75, 1.0)))
    return (shorter, longest) if rng.random() < 0.7 else (longest, shorter)


def _draw_categories(rng: np.random.Generator, bias: float) -> list[int]:
    count = int(rng.choice(4, p=_COUNT_PROBABILITIES)) + 1
    categories = [int(rng.integers(len(SCENE_CLASSES)))]
    while len(categories) < count:
        if rng.random() < bias:
            categories.append(categories[-1] ^ 1)
        else:
            categories.append(int(rng.integers(len(SCENE_CLASSES))))
    return categories


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]))))


def _background(rng: np.random.Generator, shape: tuple[int, int], family: int) -> np.ndarray:
    first, second, far = draw_color(rng), draw_color(rng), draw_color(rng)
    tone = BACKGROUNDS[family](rng, shape)[..., None]
    down = np.linspace(0, 1, shape[0], dtype=np.float32)[:, None, None]
    across = np.linspace(0, 1, shape[1], dtype=np.float32)[None, :, None]
    angle = rng.uniform(0, 2 * np.pi)
    # float(): a float64 scalar of numpy would widen the whole image.
    rise, run = float(np.sin(angle)), float(np.cos(angle))
    ramp = np.clip(0.5 + (down - 0.5) * rise + (across - 0.5) * run, 0, 1)
    color = first * (1 - tone) + second * tone
    return np.asarray(color * (1 - 0.45 * ramp) + far * (0.45 * ramp), dtype=np.float32)


def _corner(rng: np.random.Generator, patch: Patch, shape: tuple[int, int]) -> tuple[int, int]:
    """Draw the top left corner of a patch; up to a third of it may lie outside."""
    (h, w), (height, width) = patch.mask.shape, shape
    low_y, high_y = sorted((-h // 3, height - 2 * h // 3))
    low_x, high_x = sorted((-w // 3, width - 2 * w // 3))
    return int(rng.integers(low_y, high_y + 1)), int(rng.integers(low_x, high_x + 1))


def _windows(
    corner: tuple[int, int], patch: tuple[int, ...], image: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of the image under a patch, and the part of the patch on the image."""
    on_image, on_patch = [], []
    for start, size, limit in zip(corner, patch, image, strict=False):
        low, high = max(start, 0), min(start + size, limit)
        on_image.append(slice(low, max(high, low)))
        on_patch.append(slice(low - start, max(high, low) - start))
    return (on_image[0], on_image[1]), (on_patch[0], on_patch[1])


def _paint(image: np.ndarray, patch: Patch, corner: tuple[int, int]) -> None:
    # A soft shadow, down and right of the thing, then the thing itself.
    offset = max(2, round(0.03 * max(patch.mask.shape)))
    padded = np.pad(patch.alpha, 2 * offset)
    shadow = blur(padded, offset / 2)[..., None]
    there, here = _windows((corner[0] - offset, corner[1] - offset), padded.shape, image.shape)
    image[there] *= 1 - 0.4 * shadow[here]
    there, here = _windows(corner, patch.mask.shape, image.shape)
    alpha = patch.alpha[here][..., None]
    image[there] = image[there] * (1 - alpha) + patch.color[here] * alpha


def _place(
    rng: np.random.Generator,
    image: np.ndarray,
    placed: list[_Placed],
    category: int,
    patch: Patch,
) -> None:
    """Paint an object at the first of some random places that the rules allow, or drop it."""
    shape = image.shape[:2]
    for _ in range(_TRIES):
        corner = _corner(rng, patch, (shape[0], shape[1]))
        there, here = _windows(corner, patch.mask.shape, shape)
        if patch.mask[here].sum() < (1 - _MAX_CUT) * patch.mask.sum():
            continue
        full, head = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        full[there], head[there] = patch.mask[here], patch.head[here]
        head_pixels = int(patch.head.sum())
        share = head_pixels / int(patch.mask.sum())
        candidate = _Placed(category, full, head, full.copy(), share, head_pixels)
        if _allowed(candidate) and all(_allowed(item, full) for item in placed):
            for item in placed:
                item.visible &= ~full
            placed.append(candidate)
            _paint(image, patch, corner)
            return


def _allowed(item: _Placed, cover: np.ndarray | None = None) -> bool:
    visible = item.visible if cover is None else item.visible & ~cover
    head = int((visible & item.full_head).sum())
    return bool(
        visible.sum() >= (1 - MAX_LOSS) * item.full.sum()
        and head >= (1 - MAX_HEAD_LOSS) * item.head_pixels
    )


def _finish(item: _Placed) -> SceneObject:
    head = item.visible & item.full_head
    return SceneObject(
        category=item.category,
        visible=item.visible,
        head=head,
        full=item.full,
        head_share=item.head_share,
        visible_share=float(item.visible.sum() / item.full.sum()),
        head_visible_share=float(head.sum() / item.head_pixels),
    )


def _camera(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    gain = rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    gamma, sigma = rng.uniform(0.85, 1.2), rng.uniform(0.0, 1.0)
    pixels = np.clip(image * gain.astype(np.float32), 0, 1) ** np.float32(gamma)
    # Below 0.3 pixels a blur changes nothing that eight bits could hold.
    pixels = (blur(pixels, sigma) if sigma > 0.3 else pixels) * 255
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0, 6))
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
