"""Why SEPL made a label worse: each class of an image whose IoU fell, with one reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .choose import choose_masks
from .masks import MaskSet, Runs, count_overlaps
from .settings import SEPLSettings

__all__ = ["KINDS", "LabelFall", "find_falls", "worst_images"]

KINDS = ("wrong_seed", "enveloping_mask", "missing_or_merged_mask", "other")
_IGNORE = 255
_FALL = 0.01 + 1e-9  # of IoU; a point is none yet, however it is rounded
_SEED_COVERS, _SEED_OFF = 0.10, 0.50
_MASK_ON_TRUTH, _MASK_HOLDS = 0.50, 0.90
_MASK_FITS = 0.50  # IoU with a part of the truth


@dataclass(frozen=True)
class LabelFall:
    """A class of an image that lost IoU: the first reason of KINDS that fits, IoU in [0, 1]."""

    image_id: str
    label: int
    kind: str
    before: float
    after: float

    @property
    def fall(self) -> float:
        """IoU lost."""
        return self.before - self.after


def find_falls(
    image_id: str,
    truth: np.ndarray,
    seed: np.ndarray,
    after: np.ndarray,
    masks: MaskSet,
    settings: SEPLSettings,
) -> list[LabelFall]:
    """Return the classes of an image whose IoU fell by more than a point, and why.

    truth, seed, after: uint8 (H, W), 0 background, 255 not known; pixels that the truth does not
    know count nowhere. seed is what SEPL was given, so the masks that it kept are found again.

    Reads true labels: an analysis. Source: wsss.md, Sec. 5.5.

    Raises:
        ValueError: sizes that differ.
    """
    sizes = {truth.shape, seed.shape, after.shape, tuple(masks.size)}
    if len(sizes) > 1:
        raise ValueError(f"image {image_id!r}: truth, labels and masks have sizes {sorted(sizes)}")
    choice = choose_masks(seed, masks, settings)
    known = truth != _IGNORE
    found = []
    for label in np.unique(truth[known & (truth > 0)]).tolist():
        true, first = truth == label, (seed == label) & known
        ious = _iou(true, first), _iou(true, (after == label) & known)
        if ious[0] - ious[1] > _FALL:
            kept = choice.owner == label
            kind = _reason(true, first, known, choice.runs, kept)
            found.append(LabelFall(image_id, label, kind, *ious))
    return found


def worst_images(falls: Sequence[LabelFall], count: int = 5) -> list[str]:
    """Return the images of the largest falls, the worst first, each once."""
    ordered = sorted(falls, key=lambda fall: (-fall.fall, fall.image_id))
    return list(dict.fromkeys(fall.image_id for fall in ordered))[:count]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def _reason(
    true: np.ndarray, seed: np.ndarray, known: np.ndarray, runs: Runs, kept: np.ndarray
) -> str:
    """The first row of the table that fits; seed and true hold pixels that are known."""
    hits, size = int((seed & true).sum()), int(true.sum())
    if hits < _SEED_COVERS * size or seed.sum() - hits > _SEED_OFF * seed.sum():
        return "wrong_seed"
    parts, count = ndimage.label(true, structure=np.ones((3, 3)))
    parts[~known] = -1
    shared = count_overlaps(runs, parts, [-1, *range(1, count + 1)])
    areas, shared = runs.areas() - shared[:, 0], shared[:, 1:]
    of_class = shared.sum(axis=1)
    envelops = (of_class < _MASK_ON_TRUTH * areas) & (of_class >= _MASK_HOLDS * size)
    if (envelops & kept).any():
        return "enveloping_mask"
    sizes = np.bincount(parts[parts > 0], minlength=count + 1)[1:]
    iou = shared / (areas[:, None] + sizes - shared)
    return "other" if (iou >= _MASK_FITS).any() else "missing_or_merged_mask"
