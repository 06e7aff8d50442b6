"""Confidence intervals of a figure over the images of a split."""

from collections.abc import Callable

import numpy as np

from weaksam_d2.ops import bootstrap_indices

__all__ = ["bootstrap_interval"]


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
    if resamples < 2 or not 0 < level < 1:
        raise ValueError(
            f"an interval needs 2 or more resamples and a level in (0, 1), got {resamples}, {level}"
        )
    values = []
    for rows in bootstrap_indices(num_images, resamples, seed):
        value = figure(np.bincount(rows, minlength=num_images) if num_images else rows)
        if np.isfinite(value):
            values.append(value)
    if not values:
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
