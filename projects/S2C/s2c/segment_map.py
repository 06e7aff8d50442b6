"""SAM's overlapping masks as one map: which segment a pixel belongs to (S2C, Sec. 3.2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import Proposals

__all__ = ["compact_ids", "paint_segments", "segment_map"]

_PRIORITIES = ("area", "iou")
_MOST = np.iinfo(np.uint16).max


def segment_map(proposals: Proposals, *, priority: str = "area") -> NDArray[np.uint16]:
    """The segment map of one image from the masks of a proposal store.

    priority: see :func:`paint_segments`; the predicted IoU is the proposals' ``scores``. Returns
    uint16 (H, W), 0 where there is no segment, else 1 … N without gaps.

    Raises:
        ValueError: proposals without masks, scores missing for ``iou``, or a mask whose size is
            not the image's.
    """
    if proposals.masks is None:
        if not len(proposals):
            return np.zeros(proposals.image_size, np.uint16)
        raise ValueError(
            "the proposals have no masks; segments need a store made with "
            "WEAKSAM.PROPOSALS.SAVE_MASKS True (configs/SAM-Masks)"
        )
    return paint_segments(
        proposals.masks, proposals.image_size, scores=proposals.scores, priority=priority
    )


def paint_segments(
    masks: Sequence[bytes],
    size: tuple[int, int],
    *,
    scores: NDArray[np.floating] | None = None,
    priority: str = "area",
) -> NDArray[np.uint16]:
    """Paint masks over each other; who is painted last stays on top (wsss.md, Sec. 6.2).

    masks: compressed COCO run lengths in rank order. size: (height, width). scores: (n,) predicted
    IoU, NaN for none. priority: ``"area"`` puts the smallest mask on top, of equal ones that of
    higher score, then of better rank; ``"iou"`` puts the highest score on top (released code).
    Returns uint16 (H, W): 0 for no segment, else the place in the order of painting among those
    that are seen, 1 … N. A segment that smaller ones cover entirely, or an empty one, disappears.

    Raises:
        ValueError: an unknown priority, ``iou`` without scores, or more masks than uint16 counts.
    """
    if priority not in _PRIORITIES:
        raise ValueError(
            f"MODEL.S2C.SE_PRIORITY is {priority!r}, allowed: {', '.join(_PRIORITIES)}"
        )
    if len(masks) > _MOST:
        raise ValueError(f"an image has {len(masks)} masks, a segment map counts up to {_MOST}")
    if priority == "iou" and scores is None and len(masks):
        raise ValueError(
            "MODEL.S2C.SE_PRIORITY 'iou' needs the predicted IoU of each mask, the store has no "
            "scores; use 'area', or generate the masks again"
        )
    codes: list[Any] = [{"size": list(size), "counts": code} for code in masks]
    painted = np.zeros(size, np.uint16)
    for number, row in enumerate(_painting_order(codes, scores, priority), start=1):
        painted[coco_mask.decode(codes[row]).view(np.bool_)] = number
    return compact_ids(painted)


def compact_ids(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Renumber ids to 1 … N in their order, without gaps; 0 stays 0 (uint16 (H, W))."""
    found = np.unique(ids)
    table = np.zeros(int(found[-1]) + 1 if len(found) else 1, np.uint16)
    seen = found[found > 0]
    table[seen] = np.arange(1, len(seen) + 1, dtype=np.uint16)
    return table[ids]


def _painting_order(
    codes: Sequence[Any], scores: NDArray[np.floating] | None, priority: str
) -> list[int]:
    """Rows of the masks that have pixels, the topmost one last."""
    # One by one: pycocotools fails on a list of more than 255.
    areas = np.array([coco_mask.area(code) for code in codes], np.int64)
    given = np.zeros(len(codes)) if scores is None else np.asarray(scores, np.float64)
    score = np.nan_to_num(given, nan=-np.inf)
    rank = np.arange(len(codes))
    # The last key of lexsort decides first.
    keys = (-rank, score, -areas) if priority == "area" else (-rank, score)
    return [int(row) for row in np.lexsort(keys) if areas[row] > 0]
