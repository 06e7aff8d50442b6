"""How a label map agrees with the true one: confusion matrix, and the figures of each class."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ClassCounts",
    "class_counts",
    "confusion_matrix",
    "false_discovery_rate",
    "ignored_ratio",
    "iou_per_class",
    "mean_over_classes",
    "miss_rate",
    "precision_per_class",
    "recall_per_class",
    "threshold_histogram",
    "threshold_matrices",
]

Labels = NDArray[Any]
_VALUES = 256  # of a pixel of a label map


class ClassCounts(NamedTuple):
    """Pixels of each class: in both maps, in the prediction, in the truth; each int (..., N)."""

    hits: NDArray[Any]
    predicted: NDArray[Any]
    true: NDArray[Any]


def confusion_matrix(
    truth: Labels, prediction: Labels, num_labels: int, *, ignore: int = 255
) -> NDArray[np.int64]:
    """Count the pixels of each pair (true label, predicted label): int64 (N, N + 1).

    truth, prediction: integers of one shape, labels 0 … N - 1 or ``ignore``; uint8 is fastest.
    num_labels: N, background included. Pixels whose true label is ``ignore`` are not counted; the
    last column holds predictions of ``ignore``.

    Raises:
        ValueError: another value (also at a pixel that is not counted), or two shapes.
        Source: wsss.md, Sec. 2.
    """
    if not 1 <= num_labels <= ignore < _VALUES:
        raise ValueError(f"{num_labels} labels and {ignore} for none of them do not fit in 0 … 255")
    if truth.shape != prediction.shape:
        raise ValueError(
            f"the true labels are {truth.shape}, the predicted ones {prediction.shape}; label maps "
            "must have the size of their image"
        )
    rows = _bytes(truth, "true").astype(np.uint16)
    rows *= _VALUES
    rows += _bytes(prediction, "predicted")
    # All pairs of bytes: what is out of range shows in the table, no pass over the pixels needed.
    table = np.bincount(rows.ravel(), minlength=_VALUES * _VALUES).reshape(_VALUES, _VALUES)
    allowed = np.zeros(_VALUES, bool)
    allowed[:num_labels] = allowed[ignore] = True
    for what, sums in (("true", table.sum(axis=1)), ("predicted", table.sum(axis=0))):
        _check(np.flatnonzero(sums.astype(bool) & ~allowed), what, num_labels, ignore)
    return np.concatenate(
        [table[:num_labels, :num_labels], table[:num_labels, ignore : ignore + 1]], axis=1
    )


def _bytes(labels: Labels, what: str) -> NDArray[np.uint8]:
    if labels.dtype == np.uint8:
        return labels
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{what} labels have type {labels.dtype}, expected integers (uint8)")
    if labels.size and not 0 <= labels.min() <= labels.max() < _VALUES:
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise ValueError(f"{what} labels hold {worst}, expected 0 … 255")
    return labels.astype(np.uint8)


def _check(values: NDArray[Any], what: str, num_labels: int, ignore: int) -> None:
    if len(values):
        raise ValueError(
            f"{what} labels hold {values[:5].tolist()}, expected 0 … {num_labels - 1} or {ignore} "
            "(no label)"
        )


def class_counts(matrix: NDArray[Any]) -> ClassCounts:
    """Pixels of each class from matrices (..., N, N + 1) of :func:`confusion_matrix`.

    A prediction of no label is a miss of the true class and a false alarm of none.
    """
    square = matrix[..., :-1]
    return ClassCounts(
        np.diagonal(square, axis1=-2, axis2=-1), square.sum(axis=-2), matrix.sum(axis=-1)
    )


def iou_per_class(counts: ClassCounts) -> NDArray[np.float64]:
    """Intersection over union, float64 (..., N); NaN for a class that neither map has."""
    return _ratio(counts.hits, counts.true + counts.predicted - counts.hits)


def precision_per_class(counts: ClassCounts) -> NDArray[np.float64]:
    """Share of the predicted pixels that are right; NaN for a class that is never predicted."""
    return _ratio(counts.hits, counts.predicted)


def recall_per_class(counts: ClassCounts) -> NDArray[np.float64]:
    """Share of the true pixels that are found; NaN for a class that is never there."""
    return _ratio(counts.hits, counts.true)


def miss_rate(counts: ClassCounts) -> NDArray[np.float64]:
    """FN / (TP + FN), the share of the true pixels that are not found."""
    return _ratio(counts.true - counts.hits, counts.true)


def false_discovery_rate(counts: ClassCounts) -> NDArray[np.float64]:
    """FP / (TP + FP), the share of the predicted pixels that are wrong."""
    return _ratio(counts.predicted - counts.hits, counts.predicted)


def ignored_ratio(matrix: NDArray[Any]) -> float:
    """Share of the counted pixels whose prediction is no label; NaN without a pixel."""
    return float(_ratio(matrix[:, -1].sum(), matrix.sum()))


def mean_over_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (...,) over the last axis without NaN; NaN where nothing is left."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0.0).sum(axis=-1), there.sum(axis=-1))


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    result = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def threshold_histogram(
    truth: Labels,
    label: Labels,
    score: NDArray[Any],
    thresholds: NDArray[Any],
    num_labels: int,
    *,
    ignore: int = 255,
) -> NDArray[np.int64]:
    """Count what the confusion matrices of many background thresholds are made of.

    truth, label: as `confusion_matrix`; ``label`` is the best class of each pixel, background left
    out. score: (H, W), of that class. thresholds: (T,) rising. Returns int64 (N, N, T + 1): pixels
    of each true label, best label, and number of thresholds below the score.

    Raises:
        ValueError: as `confusion_matrix`; thresholds that do not rise, or a score that is NaN.
    """
    limits = np.asarray(thresholds, dtype=score.dtype)
    if limits.ndim != 1 or not len(limits) or (np.diff(limits) <= 0).any():
        raise ValueError(f"thresholds must rise, got {limits.tolist()}")
    if np.isnan(score).any():
        raise ValueError("the scores of a pixel are NaN")
    confusion_matrix(truth, label, num_labels, ignore=ignore)  # refuses what is no label
    there = (truth != ignore) & (label != ignore)
    below = np.searchsorted(limits, score[there], side="left")
    shape = (num_labels, num_labels, len(limits) + 1)
    cell = truth[there].astype(np.int64) * num_labels + label[there]
    return np.bincount(cell * shape[2] + below, minlength=int(np.prod(shape))).reshape(shape)


def threshold_matrices(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
    """Confusion matrices (T, N, N + 1) of a `threshold_histogram`, one for each threshold.

    A pixel keeps its best label where the score is above the threshold, else it is background.
    """
    above = histogram[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
    labels, count = histogram.shape[0], histogram.shape[2] - 1
    matrices = np.zeros((count, labels, labels + 1), np.int64)
    matrices[:, :, :-1] = above.transpose(2, 0, 1)
    matrices[:, :, 0] += (histogram.sum(axis=(1, 2))[:, None] - above.sum(axis=1)).T
    return matrices
