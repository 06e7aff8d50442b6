"""Which RoIs or queries stay in the loss; the only place where this is decided."""

import torch
from torch import Tensor

__all__ = ["query_drop_mask", "roi_drop_mask"]

_ROI_MODES = ("paper", "release_both", "cls", "reg", "off")
_QUERY_POOLS = ("fg", "all_then_fg", "all")


@torch.no_grad()
def roi_drop_mask(
    cls_loss: Tensor,
    reg_loss: Tensor,
    foreground: Tensor,
    *,
    cls_threshold: float,
    reg_threshold: float,
    mode: str = "paper",
) -> Tensor:
    """Tell which RoIs are kept: those whose pseudo label the detector can believe.

    cls_loss: (R,), cross entropy in nats. reg_loss: (R,), box loss in the unit of
    ``reg_threshold`` (sum or mean of four coordinates); counts as 0 for background. foreground:
    bool (R,). mode: ``"paper"`` drops if *either* loss is above its threshold, ``"release_both"``
    if both are, ``"cls"`` and ``"reg"`` look at one, ``"off"`` drops nothing.
    Returns bool (R,), True is kept; a loss equal to its threshold is kept. Raises ValueError for
    an unknown mode, FloatingPointError if a loss is not finite. WeakSAM, Sec. 3.4, Eq. 1.
    """
    if mode not in _ROI_MODES:
        raise ValueError(f"mode must be one of {_ROI_MODES}, got {mode!r}")
    box_loss = torch.where(foreground, reg_loss, torch.zeros_like(reg_loss))
    _require_finite(cls_loss, "classification loss of a RoI")
    _require_finite(box_loss, "box loss of a foreground RoI")
    cls_bad = cls_loss > cls_threshold
    reg_bad = foreground & (box_loss > reg_threshold)
    if mode == "paper":
        return ~(cls_bad | reg_bad)
    if mode == "release_both":
        return ~(cls_bad & reg_bad)
    if mode == "cls":
        return ~cls_bad
    return ~reg_bad if mode == "reg" else torch.ones_like(cls_bad)


@torch.no_grad()
def query_drop_mask(
    rank_loss: Tensor, *, percentile: int, foreground: Tensor | None = None, pool: str = "fg"
) -> Tensor:
    """Tell which queries are kept: all but the few with the highest loss.

    rank_loss: (n,) of the queries of a batch. percentile: integer in [1, 100]; a query goes if its
    loss is above the ``(100 - percentile)`` % largest. foreground: bool (n,), matched queries;
    None: all. pool: ``"fg"`` ranks and drops the matched ones only; the others scale both groups to
    [0, 1] and rank them together, and drop the matched (``"all_then_fg"``) or both (``"all"``).
    Returns bool (n,), True is kept; ties with the limit stay, and nothing goes from fewer than
    ``100 / (100 - percentile)`` queries. Raises ValueError for a bad option, FloatingPointError if
    a loss is not finite. WeakSAM, Sec. 3.4, Eq. 3.
    """
    if isinstance(percentile, float) or not 1 <= percentile <= 100:
        raise ValueError(f"percentile must be an integer in [1, 100], got {percentile!r}")
    if pool not in _QUERY_POOLS:
        raise ValueError(f"pool must be one of {_QUERY_POOLS}, got {pool!r}")
    _require_finite(rank_loss, "loss of a query")
    if foreground is None:
        foreground = torch.ones_like(rank_loss, dtype=torch.bool)
    if len(rank_loss) == 0:
        return foreground.clone()
    if pool == "fg":
        return ~(foreground & _above_limit(rank_loss, foreground, percentile))
    loss = torch.where(
        foreground, _scale_group(rank_loss, foreground), _scale_group(rank_loss, ~foreground)
    )
    high = _above_limit(loss, torch.ones_like(foreground), percentile)
    return ~(high & foreground) if pool == "all_then_fg" else ~high


def _above_limit(loss: Tensor, member: Tensor, percentile: int) -> Tensor:
    """Which entries are above the k-th largest member's (counted from 0)."""
    ranked = torch.where(member, loss, float("-inf")).sort(descending=True).values
    # Integers: (1 - 0.9) * 10 is below 1 in floating point.
    k = (member.sum() * (100 - percentile)) // 100
    return loss > ranked.gather(0, k[None])


def _scale_group(loss: Tensor, member: Tensor) -> Tensor:
    low = torch.where(member, loss, float("inf")).amin()
    spread = torch.where(member, loss, float("-inf")).amax() - low
    return torch.where(spread > 0, (loss - low) / spread, torch.zeros_like(loss))


def _require_finite(loss: Tensor, name: str) -> None:
    # A comparison with NaN is false: without this it would be kept or dropped silently.
    if not torch.isfinite(loss).all():
        raise FloatingPointError(f"the {name} is not finite; lower the learning rate")
