"""Matching boxes with true boxes, for evaluation: recall, average precision, CorLoc."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from weaksam_d2.ops.boxes import pairwise_iou

__all__ = [
    "Matches",
    "best_iou",
    "bootstrap_indices",
    "corloc_hits",
    "iou_matrix",
    "match_detections",
    "one2one_recall_iou",
    "precision_recall",
    "voc_ap",
]

Floats = NDArray[np.floating[Any]]


class Matches(NamedTuple):
    """Detections of one class over a data set, judged; all by falling score."""

    order: NDArray[np.int64]
    """(D,), row of the given detections."""
    true_positive: NDArray[np.bool_]
    """(D,)."""
    false_positive: NDArray[np.bool_]
    """(D,); neither is an ignored detection (of a difficult object)."""
    num_positive: int
    """True objects that are not difficult."""


def iou_matrix(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return the IoU of every box of ``a`` with every box of ``b``.

    a: (n, 4), b: (m, 4), XYXY half-open pixels. Returns float64 (n, m).
    """
    left = torch.from_numpy(np.array(a, dtype=np.float64).reshape(-1, 4))
    right = torch.from_numpy(np.array(b, dtype=np.float64).reshape(-1, 4))
    iou: NDArray[np.float64] = pairwise_iou(left, right).numpy()
    return iou


def best_iou(iou: Floats) -> NDArray[np.float64]:
    """Return the largest IoU of each true box with any proposal.

    iou: (G, N). Returns float64 (G,); 0 without proposals.
    """
    _check_iou(iou)
    best: NDArray[np.float64] = np.max(iou, axis=1, initial=0.0).astype(np.float64)
    return best


def one2one_recall_iou(iou: Floats) -> NDArray[np.float64]:
    """Pair true boxes with proposals greedily, best IoU first, and return the IoU of each pair.

    iou: (G, N). The largest remaining entry is recorded for its true box and both leave, until one
    side is used up; ties: lowest true box, then lowest proposal. Returns float64 (G,); 0 for a
    true box that got no proposal. Raises ValueError if an entry is not finite.
    WeakSAM, Table 4 (as its released code measures recall).
    """
    _check_iou(iou)
    recorded = np.zeros(iou.shape[0])
    if iou.size == 0:
        return recorded
    left = np.array(iou, dtype=np.float64)
    partner = left.argmax(axis=1)
    value = left[np.arange(len(left)), partner]
    for _ in range(min(left.shape)):
        truth = int(value.argmax())
        proposal = partner[truth]
        recorded[truth] = value[truth]
        value[truth] = -np.inf
        left[:, proposal] = -1.0
        # Only rows that wanted the same proposal have to look again.
        stale = np.flatnonzero((partner == proposal) & (value > -np.inf))
        partner[stale] = left[stale].argmax(axis=1)
        value[stale] = left[stale, partner[stale]]
    return recorded


def match_detections(
    images: Sequence[str],
    boxes: ArrayLike,
    scores: ArrayLike,
    truths: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    iou_threshold: float = 0.5,
) -> Matches:
    """Judge the detections of one class over a data set, as the VOC development kit does.

    images: D image ids. boxes: (D, 4) XYXY half-open pixels. scores: (D,), full precision.
    truths: for each image its true boxes (G, 4) of the class and their difficult flags (G,); an
    image without any may be missing. By falling score, ties in the given order, a detection is
    compared with the true box of its image that it overlaps most: it is true if the IoU is *above*
    the threshold and the box is not taken, ignored if that box is difficult, else false.
    Raises ValueError for bad shapes or scores that are not finite.
    """
    box, score = _checked_detections(images, boxes, scores)
    order = np.argsort(-score, kind="stable")
    names = np.array(images, dtype=object)[order]
    box = box[order]
    target = np.full(len(order), -1, dtype=np.int64)  # true box, numbered over the data set
    hard = np.zeros(len(order), dtype=np.bool_)
    first, num_positive = 0, 0
    rows_of = _rows_by_name(names)
    for name, (true_boxes, difficult) in truths.items():
        flags = np.asarray(difficult, dtype=np.bool_)
        num_positive += int((~flags).sum())
        rows = rows_of.get(name)
        if rows is not None and len(flags):
            iou = iou_matrix(box[rows], true_boxes)
            best = iou.argmax(axis=1)
            hit = iou[np.arange(len(rows)), best] > iou_threshold
            target[rows[hit]] = first + best[hit]
            hard[rows[hit]] = flags[best[hit]]
        first += len(flags)
    true_positive = np.zeros(len(order), dtype=np.bool_)
    claimed, winner = np.unique(target, return_index=True)  # the first, so the best scored
    true_positive[winner[claimed >= 0]] = True
    true_positive &= ~hard
    return Matches(order, true_positive, ~true_positive & ~hard, num_positive)


def precision_recall(
    true_positive: ArrayLike,
    false_positive: ArrayLike,
    num_positive: float,
    weights: ArrayLike | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return recall and precision after each detection.

    true_positive, false_positive: bool (D,), by falling score. num_positive: true objects.
    weights: (D,), how often each detection counts (for resampled images; ``num_positive`` must be
    resampled too); None: once. Returns (recall (D,), precision (D,)); recall is NaN if there are
    no objects, precision is 0 while nothing counted.
    """
    weight = 1.0 if weights is None else np.asarray(weights, dtype=np.float64)
    hits = np.cumsum(np.asarray(true_positive, dtype=np.float64) * weight)
    misses = np.cumsum(np.asarray(false_positive, dtype=np.float64) * weight)
    recall = hits / num_positive if num_positive > 0 else np.full_like(hits, np.nan)
    counted = hits + misses
    precision = np.divide(hits, counted, out=np.zeros_like(hits), where=counted > 0)
    return recall, precision


def voc_ap(recall: ArrayLike, precision: ArrayLike, metric: str) -> float:
    """Return the average precision of a curve, as PASCAL VOC defines it.

    recall, precision: (D,), after each detection. metric: ``"11point"`` (2007) or ``"area"`` (from
    2010 on). Returns a value in [0, 1]; 0 without detections, NaN if a recall is NaN. Raises
    ValueError for another metric.
    NOTE: the eleven recall levels are k/10 exactly; steps of 0.1 added up lie above 3/10, 6/10 and
    7/10 and miss a recall that is equal to them.
    """
    rec = np.asarray(recall, dtype=np.float64)
    pre = np.asarray(precision, dtype=np.float64)
    if np.isnan(rec).any():
        return float("nan")
    if metric == "11point":
        levels = np.arange(11) / 10
        best = [np.max(pre[rec >= level], initial=0.0) for level in levels]
        return float(np.sum(best) / 11)
    if metric == "area":
        envelope = np.maximum.accumulate(pre[::-1])[::-1]
        return float(np.sum(np.diff(rec, prepend=0.0) * envelope))
    raise ValueError(f"metric must be '11point' or 'area', got {metric!r}")


def corloc_hits(
    images: Sequence[str],
    boxes: ArrayLike,
    scores: ArrayLike,
    truths: Mapping[str, ArrayLike],
    *,
    iou_threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """Tell for each image of one class whether its best detection is on an object.

    images, boxes, scores: D detections of the class, as for ``match_detections``. truths: for each
    image with an object of the class its true boxes (G, 4), difficult ones too. Returns bool (P,)
    in the order of ``truths``: the IoU of the best scored detection (ties: first) with some true
    box is *above* the threshold; an image without detections is a miss. CorLoc is the mean.
    """
    box, score = _checked_detections(images, boxes, scores)
    rows_of = _rows_by_name(np.array(images, dtype=object))
    hits = np.zeros(len(truths), dtype=np.bool_)
    for i, (name, true_boxes) in enumerate(truths.items()):
        rows = rows_of.get(name)
        if rows is not None:
            best = rows[score[rows].argmax()]
            hits[i] = bool((iou_matrix(box[best], true_boxes) > iou_threshold).any())
    return hits


def bootstrap_indices(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """Return resamples of n images, with replacement.

    Returns int64 (resamples, n) of values in [0, n); equal arguments give equal results.
    """
    return np.random.default_rng(seed).integers(0, max(n, 1), size=(resamples, n))


def _check_iou(iou: Floats) -> None:
    if iou.ndim != 2 or not np.isfinite(iou).all():
        raise ValueError(
            f"iou must be a finite (G, N) matrix, got shape {iou.shape}: drop bad boxes"
        )


def _checked_detections(
    images: Sequence[str], boxes: ArrayLike, scores: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    score = np.asarray(scores, dtype=np.float64)
    if not len(images) == len(box) == score.size:
        raise ValueError(
            "images, boxes and scores must be equally many, "
            f"got {len(images)}, {len(box)} and {score.size}"
        )
    if not np.isfinite(score).all():
        row = int(np.flatnonzero(~np.isfinite(score))[0])
        raise ValueError(
            f"score {score[row]} of a detection of image {images[row]!r} is not finite"
        )
    return box, score


def _rows_by_name(names: NDArray[np.object_]) -> dict[str, NDArray[np.int64]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: np.array(group, dtype=np.int64) for name, group in rows.items()}
