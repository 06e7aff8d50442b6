"""How wrong labels are spread over the size of the loss (WeakSAM, Fig. 3 and 7)."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

__all__ = ["LossBins", "bin_losses"]


@dataclass(frozen=True)
class LossBins:
    """Losses in bins of equal width over their own range.

    ``low``, ``high``: the range, NaN if there is no loss. ``count``: int64 (B,). ``error_rate``:
    float64 (B,), share of wrong ones in [0, 1], NaN in an empty bin. ``spearman``: rank
    correlation of bin number and error rate over the bins that are not empty, NaN if there are
    fewer than two or all rates are equal.
    """

    low: float
    high: float
    count: np.ndarray
    error_rate: np.ndarray
    spearman: float


def bin_losses(loss: np.ndarray, wrong: np.ndarray | None = None, *, bins: int = 20) -> LossBins:
    """Scale losses to [0, 1] by their range and count them, and the wrong ones, in equal bins.

    loss: finite (R,). wrong: bool (R,) or None (then no error rate is known: NaN). A bin holds its
    left end, the last one both; equal losses are all in the first bin. Raises ValueError for
    shapes that differ, a loss that is not finite, or fewer than one bin. weaksam.md, Sec. 7.2.
    """
    loss = np.asarray(loss, dtype=np.float64)
    if loss.ndim != 1 or not np.isfinite(loss).all():
        raise ValueError(f"losses must be finite (n,), got shape {loss.shape}")
    if wrong is not None and np.shape(wrong) != loss.shape:
        raise ValueError(f"wrong must have the shape {loss.shape} of the losses, got {wrong.shape}")
    if bins < 1:
        raise ValueError(f"bins must be positive, got {bins}")
    low, high = (loss.min(), loss.max()) if len(loss) else (np.nan, np.nan)
    spread = high - low if high > low else 1.0
    # Multiplied before it is divided: a loss at a left end stays there.
    place = np.minimum((loss - low) * bins // spread, bins - 1).astype(np.int64)
    count = np.bincount(place, minlength=bins)
    rate = np.full(bins, np.nan)
    if wrong is not None:
        bad = np.bincount(place, weights=np.asarray(wrong, dtype=np.float64), minlength=bins)
        np.divide(bad, count, out=rate, where=count > 0)
    return LossBins(float(low), float(high), count, rate, _rank_correlation(rate))


def _rank_correlation(rate: np.ndarray) -> float:
    seen = np.flatnonzero(np.isfinite(rate))
    if len(np.unique(rate[seen])) < 2:
        return float("nan")
    return float(spearmanr(seen, rate[seen]).statistic)
