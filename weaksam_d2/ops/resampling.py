"""Average precision of many resamples of the images at once, for confidence intervals."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

__all__ = ["resampled_ap", "resampled_counts"]


def resampled_counts(
    n: int, resamples: int, seed: int, *, block: int = 100
) -> Iterator[NDArray[np.int64]]:
    """Yield how often each of n images is drawn, in resamples of n images with replacement.

    Yields int64 (b, n), b <= block rows at a time, ``resamples`` rows in all: the counts of
    ``bootstrap_indices`` with the same seed, whatever the block.
    """
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        rows = rng.integers(0, max(n, 1), size=(size, n))
        rows += n * np.arange(size)[:, None]
        yield np.bincount(rows.ravel(), minlength=size * n).reshape(size, n)


def resampled_ap(
    images: ArrayLike,
    true_positive: ArrayLike,
    false_positive: ArrayLike,
    positives: ArrayLike,
    counts: ArrayLike,
    *,
    recall_levels: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """Return the average precision of one class in each resample.

    images: int (D,), the image of each detection, by falling score. true_positive,
    false_positive: bool (D,). positives: int (I,), objects of each image. counts: int (B, I), how
    often each image counts in each resample. recall_levels: precision is read at these and
    averaged (11 for VOC 2007, 101 for COCO); None: the area under the curve. Returns (B,) in
    [0, 1], NaN for a resample without objects.

    Equal to ``precision_recall`` and ``voc_ap`` with the row of ``counts`` as weights. Precision
    is largest at a true positive, so the curve is needed only there; what lies between two of
    them enters as one product of a sparse matrix with the counts of all resamples.
    """
    image = np.asarray(images, dtype=np.int64)
    weights = np.ascontiguousarray(np.asarray(counts, dtype=np.float64).T)  # (I, B)
    total = np.asarray(positives, dtype=np.float64) @ weights
    hit = np.flatnonzero(np.asarray(true_positive, dtype=np.bool_))
    result = np.where(total > 0, 0.0, np.nan)
    if not len(hit):
        return result
    miss = np.flatnonzero(np.asarray(false_positive, dtype=np.bool_))
    following = np.searchsorted(hit, miss)  # the first hit that ranks below each miss
    seen = following < len(hit)
    between = sparse.csr_matrix(
        (np.ones(int(seen.sum())), (following[seen], image[miss[seen]])),
        shape=(len(hit), len(weights)),
    )
    misses = np.cumsum(between @ weights, axis=0)
    hits = np.cumsum(weights[image[hit]], axis=0)
    counted = hits + misses
    precision = np.divide(hits, counted, out=np.zeros_like(hits), where=counted > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    recall = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
    if recall_levels is None:
        area = np.sum(np.diff(recall, axis=0, prepend=0.0) * envelope, axis=0)
    else:
        area = _mean_at_levels(recall, envelope, np.asarray(recall_levels, dtype=np.float64))
    return np.where(total > 0, area, np.nan)


def _mean_at_levels(
    recall: NDArray[np.float64], envelope: NDArray[np.float64], levels: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Mean precision at the levels, 0 at those that a column's recall does not reach."""
    closed = np.vstack([envelope, np.zeros(envelope.shape[1])])
    return np.array(
        [
            closed[np.searchsorted(recall[:, column], levels), column].mean()
            for column in range(recall.shape[1])
        ]
    )
