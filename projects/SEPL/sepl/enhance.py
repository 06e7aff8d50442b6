"""A pseudo label enhanced by SAM's masks: SEPL for one image."""

from collections.abc import Collection
from itertools import groupby

import numpy as np
from pycocotools import mask as coco_mask

from weaksam_d2.ops import paint_order

from .choose import Choice, choose_masks
from .masks import MaskSet
from .settings import SEPLSettings

__all__ = ["IGNORE", "enhance_labels", "paint", "tagged_seed"]

IGNORE = 255


def enhance_labels(
    label: np.ndarray,
    masks: MaskSet,
    *,
    settings: SEPLSettings,
    num_labels: int | None = None,
    tags: Collection[int] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give each class of a seed the masks that lie on it; returns (uint8 (H, W), flags).

    label: uint8 (H, W), 0 background, class + 1, 255 ignore; it is not changed. masks: of the same
    size. num_labels: label ids that exist, background included. tags: contiguous classes of the
    image; other classes of the seed count as background (None: not known, all are taken).

    Flags, with label ids: ``untagged:k``; ``no_tags``, no class in the seed; ``no_masks``;
    ``fallback:k``, the class took no mask and is its seed; ``lost:k``, nothing of it is left.

    Raises:
        ValueError: sizes that differ, or a label id that does not exist.

    Source: SEPL, Algorithm 1; wsss.md, Sec. 5.
    """
    _check(label, num_labels)
    seed, flags = tagged_seed(label, tags)
    choice = choose_masks(seed, masks, settings)
    if not len(choice.classes) or not len(masks):
        if settings.ignore == "background":
            seed[seed == IGNORE] = 0
        reason = "no_tags" if not len(choice.classes) else "no_masks"
        return np.ascontiguousarray(seed), (*flags, reason)
    result, fallen = paint(seed, masks, choice, settings)
    present = np.bincount(result.ravel(), minlength=256) > 0
    lost = [int(one) for one in choice.classes if not present[one]]
    flags += [f"fallback:{one}" for one in fallen]
    return np.ascontiguousarray(result), (*flags, *(f"lost:{one}" for one in lost))


def paint(
    seed: np.ndarray, masks: MaskSet, choice: Choice, settings: SEPLSettings
) -> tuple[np.ndarray, list[int]]:
    """Paint what the classes took, and what stays of the seed; only kept masks are decoded.

    Returns the label uint8 (H, W) and the classes that live on their seed alone.
    """
    kept = np.flatnonzero(choice.owner)
    ids, areas = choice.owner[kept].tolist(), choice.areas[kept].tolist()
    scores, rests, fallen = _scores(masks)[kept].tolist(), [], []
    for one, pixels in zip(choice.classes.tolist(), choice.pixels.tolist(), strict=True):
        region, size = _rest_of_seed(seed, masks, choice, one, pixels, settings)
        if region is None or not size:
            continue
        if one not in ids:
            fallen.append(one)
        ids.append(one)
        areas.append(size)
        scores.append(-np.inf)
        rests.append(region)
    by_area = settings.conflict == "area"
    order = paint_order(areas, ids, scores) if by_area else np.argsort(ids, kind="stable")
    unknown = IGNORE if settings.ignore == "keep" else 0
    result = np.where(seed == IGNORE, np.uint8(unknown), np.uint8(0))
    # Regions of one class that follow each other need no order: their masks are joined first.
    for one, group in groupby(order.tolist(), key=ids.__getitem__):
        rows = list(group)
        parts = [rests[row - len(kept)] for row in rows if row >= len(kept)]
        parts.append(_union(masks, kept[[row for row in rows if row < len(kept)]]))
        for part in parts:
            np.copyto(result, np.uint8(one), where=part)
    return result, fallen


def _check(label: np.ndarray, num_labels: int | None) -> None:
    if label.dtype != np.uint8 or label.ndim != 2:
        raise ValueError(f"a label must be uint8 (H, W), got {label.dtype} {label.shape}")
    if num_labels is None:
        return
    found = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[:IGNORE])
    if len(found) and found[-1] >= num_labels:
        raise ValueError(f"the label holds {found[-1]}, expected 0 to {num_labels - 1} or {IGNORE}")


def tagged_seed(label: np.ndarray, tags: Collection[int] | None) -> tuple[np.ndarray, list[str]]:
    """A copy without the classes that the image does not have, and their flags."""
    seed = label.copy(order="F")  # by columns, as masks are decoded: painting reads both in a row
    if tags is None:
        return seed, []
    allowed = {0, IGNORE, *(int(tag) + 1 for tag in tags)}
    found = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    wrong = [one for one in found.tolist() if one not in allowed]
    for one in wrong:
        seed[seed == one] = 0
    return seed, [f"untagged:{one}" for one in wrong]


def _rest_of_seed(
    seed: np.ndarray,
    masks: MaskSet,
    choice: Choice,
    label: int,
    pixels: int,
    settings: SEPLSettings,
) -> tuple[np.ndarray | None, int]:
    """What a class keeps of its own pixels, and how many they are."""
    if settings.fallback == "class":
        return (None, 0) if (choice.owner == label).any() else (seed == label, pixels)
    region = (seed == label) & ~_union(masks, np.flatnonzero(choice.free(label)))
    return region, int(region.sum())


def _union(masks: MaskSet, rows: np.ndarray) -> np.ndarray:
    """Pixels of any of these masks, bool (H, W); they are joined before they are decoded."""
    if not len(rows):
        return np.zeros(masks.size, bool)
    codes = [{"counts": masks.counts[row], "size": list(masks.size)} for row in rows]
    covered: np.ndarray = coco_mask.decode(coco_mask.merge(codes)).view(bool)
    return covered


def _scores(masks: MaskSet) -> np.ndarray:
    if masks.scores is None:
        return np.zeros(len(masks))
    return np.nan_to_num(np.asarray(masks.scores, np.float64), nan=-np.inf)
