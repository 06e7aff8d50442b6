"""Which RoIs or queries stay in the loss; the only place where this is decided."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

__all__ = [
    "kept_mean",
    "percentile_loss",
    "query_drop_mask",
    "query_rank_loss",
    "roi_drop_mask",
    "running_limits",
    "score_weight",
]

_ROI_MODES = ("paper", "release_both", "cls", "reg", "off")
_QUERY_POOLS = ("fg", "all_then_fg", "all")
_NORMS = ("total", "kept")
_QUERY_RANKS = ("bce", "focal")


@torch.no_grad()
def roi_drop_mask(
    cls_loss: Tensor,
    reg_loss: Tensor,
    foreground: Tensor,
    *,
    cls_threshold: float | Tensor,
    reg_threshold: float | Tensor,
    mode: str = "paper",
) -> Tensor:
    """Tell which RoIs are kept: those whose pseudo label the detector can believe.

    cls_loss: (R,), cross entropy in nats. reg_loss: (R,), box loss in the unit of
    ``reg_threshold`` (sum or mean of four coordinates); counts as 0 for background. foreground:
    bool (R,). Thresholds: numbers, or (R,) with one for each RoI; nothing is above NaN. mode:
    ``"paper"`` drops if *either* loss is above its threshold, ``"release_both"`` if both are,
    ``"cls"`` and ``"reg"`` look at one, ``"off"`` drops nothing.
    Returns bool (R,), True is kept; a loss equal to its threshold is kept. Raises ValueError for
    an unknown mode, FloatingPointError if a loss is not finite. WeakSAM, Sec. 3.4, Eq. 1.
    """
    if mode not in _ROI_MODES:
        raise ValueError(f"mode must be one of {_ROI_MODES}, got {mode!r}")
    box_loss = torch.where(foreground, reg_loss, torch.zeros_like(reg_loss))
    _require_finite(
        {"classification loss of a RoI": cls_loss, "box loss of a foreground RoI": box_loss}
    )
    cls_bad = cls_loss > cls_threshold
    reg_bad = foreground & (box_loss > reg_threshold)
    if mode == "paper":
        return ~(cls_bad | reg_bad)
    if mode == "release_both":
        return ~(cls_bad & reg_bad)
    if mode == "cls":
        return ~cls_bad
    return ~reg_bad if mode == "reg" else torch.ones_like(cls_bad)


def kept_mean(
    loss: Tensor, keep: Tensor, *, norm: str = "total", weight: Tensor | None = None
) -> Tensor:
    """Sum of the weighted losses of the kept RoIs, divided by a count of RoIs.

    loss: (R,). keep: bool (R,). weight: (R,) or None (all 1). norm: ``"total"`` divides by R,
    dropped ones included, ``"kept"`` by those that stay; by 1 if that is 0. Returns a scalar that
    is attached to the graph of ``loss``. Raises ValueError for another norm. WeakSAM, Sec. 3.4,
    Eq. 2; weaksam.md, Sec. 7.1.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {_NORMS}, got {norm!r}")
    weighted = loss if weight is None else loss * weight
    total = torch.where(keep, weighted, torch.zeros_like(loss)).sum()  # 0 * inf would be NaN
    count = keep.sum().clamp(min=1) if norm == "kept" else max(len(keep), 1)
    return total / count


@torch.no_grad()
def percentile_loss(loss: Tensor, member: Tensor, percentile: int) -> Tensor:
    """The limit of a pool of RoIs: its k-th largest loss (from 0), k = n (100 - percentile) // 100.

    loss: (R,). member: bool (R,), the n RoIs of the pool. Returns a float32 scalar, NaN where k is
    0 (too few RoIs to drop one). Raises ValueError for a percentile that is no integer in
    [1, 100]. extras.md, Sec. 3.
    """
    _require_percentile(percentile)
    if len(loss) == 0:
        return torch.full((), float("nan"), device=loss.device)
    limit, k = _kth_largest(loss.float(), member, percentile)
    return torch.where(k > 0, limit, float("nan"))


@torch.no_grad()
def running_limits(running: Tensor, batch: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Limits to drop by in this step, and the running ones after it.

    running, batch: limits of the same shape, NaN where there was none yet, or none in this batch.
    momentum: in [0, 1); 0: each batch has its own limit. Returns (limits, updated): what drops is
    the running limit from *before* the step (NaN if the batch has none: nothing is dropped), which
    then becomes ``momentum * running + (1 - momentum) * batch``, the first time ``batch``.
    extras.md, Sec. 3.
    """
    none = torch.isnan(batch)
    mixed = momentum * running + (1 - momentum) * batch
    updated = torch.where(none, running, torch.where(torch.isnan(running), batch, mixed))
    limits = batch if momentum == 0 else torch.where(none, batch, running)
    return limits, updated


@torch.no_grad()
def score_weight(score: Tensor, foreground: Tensor) -> Tensor:
    """Weight (R,) of each RoI in the loss: its pseudo box's score within [0, 1]; background 1.

    score: (R,), the normalized score of the box that the RoI is matched to (any value for
    background). Raises ValueError for a foreground score that is not finite. extras.md, Sec. 4.
    """
    weight = torch.where(foreground, score.float(), torch.ones_like(score, dtype=torch.float32))
    if not torch.isfinite(weight).all():
        raise ValueError("a pseudo box has a score_norm that is not finite; generate it again")
    return weight.clamp(0, 1)


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
    _require_percentile(percentile)
    if pool not in _QUERY_POOLS:
        raise ValueError(f"pool must be one of {_QUERY_POOLS}, got {pool!r}")
    _require_finite({"loss of a query": rank_loss})
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


@torch.no_grad()
def query_rank_loss(
    logits: Tensor, classes: Tensor, *, kind: str = "bce", alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """The loss by which queries are ranked: the sum of a query's binary cross entropies.

    logits: (..., C) of sigmoid classifiers. classes: int64 (...), the class that each query is
    matched to, C for background. kind: ``"bce"`` is not weighted (the paper), ``"focal"`` is the
    focal loss of the same row. Returns float32 (...). Raises ValueError for another kind. WeakSAM,
    Appendix C; weaksam.md, Sec. 7.3.
    """
    if kind not in _QUERY_RANKS:
        raise ValueError(f"kind must be one of {_QUERY_RANKS}, got {kind!r}")
    logits = logits.float()
    targets = F.one_hot(classes, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)
    if kind == "focal":
        loss: Tensor = sigmoid_focal_loss(logits, targets, alpha, gamma)
    else:
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return loss.sum(dim=-1)


def _above_limit(loss: Tensor, member: Tensor, percentile: int) -> Tensor:
    """Which entries are above the k-th largest member's (counted from 0)."""
    return loss > _kth_largest(loss, member, percentile)[0]


def _kth_largest(loss: Tensor, member: Tensor, percentile: int) -> tuple[Tensor, Tensor]:
    ranked = torch.where(member, loss, float("-inf")).sort(descending=True).values
    # Integers: (1 - 0.9) * 10 is below 1 in floating point.
    k = (member.sum() * (100 - percentile)) // 100
    return ranked.gather(0, k[None])[0], k


def _require_percentile(percentile: int) -> None:
    if isinstance(percentile, float) or not 1 <= percentile <= 100:
        raise ValueError(f"percentile must be an integer in [1, 100], got {percentile!r}")


def _scale_group(loss: Tensor, member: Tensor) -> Tensor:
    low = torch.where(member, loss, float("inf")).amin()
    spread = torch.where(member, loss, float("-inf")).amax() - low
    return torch.where(spread > 0, (loss - low) / spread, torch.zeros_like(loss))


def _require_finite(losses: dict[str, Tensor]) -> None:
    # A comparison with NaN is false: without this it would be kept or dropped silently.
    finite = torch.stack([torch.isfinite(loss).all() for loss in losses.values()]).tolist()
    for name, good in zip(losses, finite, strict=True):
        if not good:
            raise FloatingPointError(f"the {name} is not finite; lower the learning rate")
