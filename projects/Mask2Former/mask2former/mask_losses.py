"""Formulas of Mask2Former's losses and matching costs, all of points sampled in masks."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["bce_rows", "class_loss", "dice_rows", "pairwise_mask_costs"]


def bce_rows(logits: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean binary cross entropy (M,) of M masks at their points.

    logits, truth: (M, P), truth in [0, 1]. weight: (M, P) of the points, None: 1.
    Source: Mask2Former, Sec. 3.3.
    """
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if weight is None:
        return losses.mean(dim=1)
    return (losses * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)


def dice_rows(logits: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
    """Dice loss (M,), ``1 - (2 sum p t + 1) / (sum p + sum t + 1)``; arguments as bce_rows."""
    points = torch.ones_like(truth) if weight is None else weight
    found, wanted = logits.sigmoid() * points, truth * points
    return 1 - (2 * (found * truth).sum(dim=1) + 1) / (found.sum(dim=1) + wanted.sum(dim=1) + 1)


def pairwise_mask_costs(
    logits: Tensor, truth: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross entropy and dice loss, each (Q, n), of every query with every object.

    logits: (Q, P). truth: (n, P), at the same points. weight: (P,) or None.
    """
    points = logits.new_ones(logits.shape[1]) if weight is None else weight
    total = points.sum().clamp(min=1e-6)
    inside, outside = truth * points, (1 - truth) * points
    # -log(1 - p) is softplus(x), -log(p) is softplus(-x).
    bce = (F.softplus(-logits) @ inside.T + F.softplus(logits) @ outside.T) / total
    found = logits.sigmoid()
    sums = (found * points).sum(dim=1)[:, None] + inside.sum(dim=1)[None]
    dice = 1 - (2 * found @ inside.T + 1) / (sums + 1)
    return bce, dice


def class_loss(
    rows: Tensor, matched: Tensor, keep: Tensor, *, no_object_weight: float, norm: str = "total"
) -> Tensor:
    """Weighted mean cross entropy of all queries, without the dropped ones.

    rows: (N, Q), cross entropy of each query. matched: bool (N, Q), queries with an object, of
    weight 1; the others have ``no_object_weight``. keep: bool (N, Q); a dropped row leaves the
    sum. norm: ``"total"``: its weight stays in the denominator, ``"kept"``: it leaves that, too.
    Source: extras.md, Sec. 2.2.
    """
    weight = torch.where(matched, 1.0, no_object_weight)
    counted = weight if norm == "total" else torch.where(keep, weight, 0.0)
    total = torch.where(keep, rows * weight, torch.zeros_like(rows)).sum()
    return total / counted.sum().clamp(min=1e-6)
