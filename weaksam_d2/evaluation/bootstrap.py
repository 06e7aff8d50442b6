"""Confidence intervals of figures over the images of a split."""

from collections.abc import Callable

import numpy as np

from weaksam_d2.ops import resampled_counts

__all__ = ["batched_intervals", "bootstrap_interval", "bootstrap_intervals"]


def bootstrap_interval(
    figure: Callable[[np.ndarray], float],
    num_images: int,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of ``figure`` under resampling of images with replacement.

    ``figure`` takes int64 (I,), how often each image counts, and returns a number; NaN (nothing
    to measure in this resample) is left out. Equal arguments give equal results. Returns (low,
    high), NaN if no resample could be measured.

    Raises:
        ValueError: for fewer than two resamples or a level outside (0, 1).
    """
    low, high = bootstrap_intervals(
        lambda counts: np.array([figure(counts)]),
        num_images,
        resamples=resamples,
        seed=seed,
        level=level,
    )
    return float(low[0]), float(high[0])


def bootstrap_intervals(
    figures: Callable[[np.ndarray], np.ndarray],
    num_images: int,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """`bootstrap_interval` of F figures on the same resamples.

    ``figures`` takes int64 (I,) and returns float64 (F,). Returns (low (F,), high (F,)).

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    return batched_intervals(
        lambda counts: np.array([figures(row) for row in counts.astype(np.int64)]),
        num_images,
        resamples=resamples,
        seed=seed,
        level=level,
    )


def batched_intervals(
    figures: Callable[[np.ndarray], np.ndarray],
    num_images: int,
    *,
    resamples: int,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[np.ndarray, np.ndarray]:
    """`bootstrap_intervals` of a function that takes many resamples at once.

    ``figures`` takes float64 (B, I), how often each image counts in each of B resamples, and
    returns float64 (B, F). Memory holds one block of resamples at a time.

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(
            f"an interval needs 2 or more resamples and a level in (0, 1), got {resamples}, {level}"
        )
    values = np.concatenate(
        [
            # Images first in memory, as resampled_ap and products with (I, F) want them.
            figures(np.asfortranarray(counts, dtype=np.float64))
            for counts in resampled_counts(num_images, resamples, seed)
        ]
    )
    tail = 50 * (1 - level)
    low, high = np.full((2, values.shape[1]), np.nan)
    for column in range(values.shape[1]):
        finite = values[np.isfinite(values[:, column]), column]
        if len(finite):
            low[column], high[column] = np.percentile(finite, [tail, 100 - tail])
    return low, high
