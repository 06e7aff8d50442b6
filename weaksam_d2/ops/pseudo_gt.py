"""Which detections become pseudo ground truth, for one image or many at once.

``classes`` are the keys of groups that do not interact, and ``image_labels`` the keys that count:
the classes of one image, or numbers of (image, class) pairs, then for many images in one call.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from weaksam_d2.ops.boxes import pairwise_iof, pairwise_iou
from weaksam_d2.ops.groups import (
    group_starts,
    keep_in_groups,
    padded_blocks,
    rank_in_groups,
    sort_in_groups,
)

__all__ = [
    "Selection",
    "select_adaptive",
    "select_all",
    "select_sos",
    "select_threshold",
    "select_top1",
    "select_topk",
    "select_w2n",
    "usable_detections",
]

_NORMS = ("minmax", "release")
_CONTAINS = ("area", "score", "literal")
_FLAT = 1e-12  # a spread of scores below this counts as none

Keys = Sequence[int] | NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Selection(NamedTuple):
    """Chosen detections, by rising class, then by falling score."""

    index: NDArray[np.int64]  # type: ignore[assignment]  # hides tuple.index
    """(M,), rows of the given detections."""
    score_norm: NDArray[np.float32]
    """(M,), the normalized score: from 0 (the least of its class in the image) to 1 (the best)."""


class _Ranked(NamedTuple):
    """Detections that count, by class, then by falling score."""

    rows: NDArray[np.int64]
    boxes: Floats
    scores: Floats
    classes: NDArray[np.int64]


def select_adaptive(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Keys,
    *,
    score_thresh: float = 0.3,
    containment_thresh: float = 0.85,
    norm: str = "minmax",
    contain: str = "area",
    max_per_class: int = 0,
) -> Selection:
    """Choose a varying number of boxes of each class: good scores, not parts of a bigger box.

    boxes: (N, 4) XYXY pixels. scores: (N,). classes: (N,). image_labels: the image's classes;
    detections of others and degenerate boxes are left out first. score_thresh: least normalized
    score; ``norm`` is ``"minmax"`` over the class in this image or ``"release"`` (score over the
    spread). containment_thresh: a box goes if this share of it lies inside a kept one that is at
    least as large (``contain="area"``), a kept one of higher score (``"score"``), or any other
    (``"literal"``, which may lose a class). max_per_class: best scores only; 0: all.
    Raises ValueError for bad shapes or options. WeakSAM, Sec. 3.3, Alg. 2.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {_NORMS}, got {norm!r}")
    if contain not in _CONTAINS:
        raise ValueError(f"contain must be one of {_CONTAINS}, got {contain!r}")
    found = _ranked(boxes, scores, classes, image_labels)
    scaled = _normalize_scores(found, norm)
    keep = scaled >= score_thresh
    good = found.boxes[keep], found.classes[keep]
    if contain == "literal":
        keep[keep] = _inside_no_other(*good, containment_thresh)
    elif contain == "area":
        keep[keep] = _inside_no_bigger(*good, containment_thresh)
    else:
        keep[keep] = keep_in_groups(*good, _contained(containment_thresh))
    return _selection(found, keep, scaled, max_per_class)


def select_top1(
    boxes: ArrayLike, scores: ArrayLike, classes: ArrayLike, image_labels: Keys
) -> Selection:
    """Choose the best detection of each class of the image, if its score is above 0.

    Arguments as for ``select_adaptive``; ties: lowest index. The normalized score is 1.
    WeakSAM, Table 5 (Top-1).
    """
    return select_topk(boxes, scores, classes, image_labels, k=1)


def select_topk(
    boxes: ArrayLike, scores: ArrayLike, classes: ArrayLike, image_labels: Keys, *, k: int
) -> Selection:
    """Choose the ``k`` best detections of each class of the image among those above 0.

    Arguments as for ``select_adaptive``; ties: lowest index.
    """
    found = _ranked(boxes, scores, classes, image_labels)
    keep = (rank_in_groups(found.classes) < k) & (found.scores > 0)
    return _selection(found, keep, _normalize_scores(found))


def select_threshold(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Keys,
    *,
    threshold: float,
    max_per_class: int = 0,
) -> Selection:
    """Choose the detections whose raw score is at least ``threshold``; a class may get none.

    Other arguments as for ``select_adaptive``.
    """
    found = _ranked(boxes, scores, classes, image_labels)
    keep = found.scores >= threshold
    return _selection(found, keep, _normalize_scores(found), max_per_class)


def select_all(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Keys,
    *,
    max_per_class: int = 0,
) -> Selection:
    """Choose every detection of the image's classes; arguments as for ``select_adaptive``."""
    return select_threshold(
        boxes, scores, classes, image_labels, threshold=-np.inf, max_per_class=max_per_class
    )


def select_sos(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Keys,
    *,
    score_thresh: float = 0.2,
    containment_thresh: float = 0.85,
    max_per_class: int = 0,
) -> Selection:
    """Choose the best detection of a class and others of a raw score, not parts of bigger boxes.

    score_thresh: least raw score of the others. containment_thresh: as for
    ``select_adaptive(contain="area")``, but the best one never goes. Other arguments as there.
    SoS-WSOD (Sui et al. 2022), its filter of pseudo labels; extras.md, Sec. 4.
    """
    found = _ranked(boxes, scores, classes, image_labels)
    top = rank_in_groups(found.classes) == 0
    keep = top | (found.scores >= score_thresh)
    keep[keep] = _inside_no_bigger(
        found.boxes[keep], found.classes[keep], containment_thresh, protected=top[keep]
    )
    return _selection(found, keep, _normalize_scores(found), max_per_class)


def select_w2n(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Keys,
    *,
    threshold: float = 0.7,
    nms: float = 0.5,
    max_per_class: int = 0,
) -> Selection:
    """Choose the best detection of a class and those of a high raw score, after NMS.

    threshold: least raw score of the others. nms: a box goes if its IoU with a better one of its
    class is above it. Give the detections of the weak and the retrained detector together. Other
    arguments as for ``select_adaptive``.
    W2N (Huang et al. 2022), its filter of pseudo labels; extras.md, Sec. 4.
    """
    found = _ranked(boxes, scores, classes, image_labels)
    keep = (rank_in_groups(found.classes) == 0) | (found.scores >= threshold)
    keep[keep] = keep_in_groups(
        found.boxes[keep], found.classes[keep], lambda box: pairwise_iou(box, box) > nms
    )
    return _selection(found, keep, _normalize_scores(found), max_per_class)


def usable_detections(boxes: Floats, scores: Floats) -> Flags:
    """Tell which detections are finite and have an area.

    boxes: (N, 4) XYXY. scores: (N,). Returns bool (N,).
    """
    usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    return usable & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])


def _ranked(boxes: ArrayLike, scores: ArrayLike, classes: ArrayLike, image_labels: Keys) -> _Ranked:
    score = np.asarray(scores, dtype=np.float64)
    box = np.asarray(boxes, dtype=np.float64)
    cls = np.asarray(classes, dtype=np.int64)
    if box.size == 0 and score.size == 0:
        box = box.reshape(0, 4)
    if score.ndim != 1 or box.shape != (len(score), 4) or cls.shape != score.shape:
        raise ValueError(
            "boxes, scores and classes must have shapes (N, 4), (N,) and (N,), "
            f"got {box.shape}, {score.shape} and {cls.shape}"
        )
    rows = np.flatnonzero(
        usable_detections(box, score) & np.isin(cls, np.asarray(image_labels, dtype=np.int64))
    )
    rows = rows[sort_in_groups(cls[rows], score[rows])]
    return _Ranked(rows, box[rows], score[rows], cls[rows])


def _normalize_scores(found: _Ranked, norm: str = "minmax") -> Floats:
    starts = group_starts(found.classes)
    sizes = np.diff(starts, append=len(found.classes))
    low = np.repeat(found.scores[starts + sizes - 1], sizes)
    spread = np.repeat(found.scores[starts], sizes) - low
    if norm == "release":
        scaled: Floats = found.scores / (spread + 1e-8)
        return scaled
    # NOTE: the paper's formula is 0/0 for one detection and would lose its class.
    apart = spread > _FLAT
    return np.divide(found.scores - low, spread, out=np.ones_like(low), where=apart)


def _contained(thresh: float) -> Any:
    def removes(boxes: Tensor) -> Tensor:
        return pairwise_iof(boxes, boxes) >= thresh

    return removes


def _inside_no_bigger(
    boxes: Floats, classes: NDArray[np.int64], thresh: float, protected: Flags | None = None
) -> Flags:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = sort_in_groups(classes, area)
    safe = None if protected is None else protected[order]
    kept = np.zeros(len(order), dtype=np.bool_)
    kept[order] = keep_in_groups(boxes[order], classes, _contained(thresh), protected=safe)
    return kept


def _inside_no_other(boxes: Floats, classes: NDArray[np.int64], thresh: float) -> Flags:
    kept = np.ones(len(classes), dtype=np.bool_)
    for rows, real in padded_blocks(classes):
        inside = _contained(thresh)(torch.from_numpy(boxes[rows])).numpy()
        inside &= real[:, None, :] & ~np.eye(rows.shape[1], dtype=np.bool_)
        kept[rows[real]] = ~inside.any(axis=2)[real]
    return kept


def _selection(found: _Ranked, keep: Flags, scaled: Floats, max_per_class: int = 0) -> Selection:
    if max_per_class > 0:
        keep[keep] = rank_in_groups(found.classes[keep]) < max_per_class
    return Selection(found.rows[keep], scaled[keep].astype(np.float32))
