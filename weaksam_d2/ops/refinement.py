"""The box loss of a refinement branch."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["SMOOTH_L1_BETA", "seed_box_loss"]

SMOOTH_L1_BETA = 1.0  # MIST, Sec. 3.3: SL1(.5) = .125, SL1(2) = 1.5


def seed_box_loss(deltas: Tensor, targets: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted smooth L1 loss of the foreground's boxes, over all proposals.

    deltas: (R, C, 4), or (R, 1, 4) if they do not depend on the class. targets: (R, 4), what
    ``encode_boxes`` says of each proposal's seed. labels: int64 (R,), from 0 on; ``C`` and above
    is background, of any content. weights: (R,), 0 for background. Returns a float32 scalar: the
    sum over foreground and coordinates of weight x smooth L1, over R; 0 but attached to the graph
    if R is 0. No device synchronization. MIST (Ren et al. 2020), Eq. 6; weaksam.md, Sec. 5.5.
    """
    if len(deltas) == 0:
        return deltas.float().sum() * 0
    column = labels.clamp(max=deltas.shape[1] - 1)[:, None, None].expand(-1, 1, 4)
    own = deltas.float().gather(1, column)[:, 0]
    weights = weights.detach().float()
    targets = torch.where(weights[:, None] > 0, targets.float(), 0.0)
    loss = F.smooth_l1_loss(own, targets, beta=SMOOTH_L1_BETA, reduction="none").sum(dim=1)
    return (weights * loss).sum() / len(deltas)
