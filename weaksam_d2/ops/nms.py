"""Non-maximum suppression with a fixed order of ties: the lower index comes first.

A box goes if its IoU with a kept one is *above* the threshold. NOTE: overlaps are computed in
float64, so that an IoU which equals the threshold (3/10 and 0.3) stays, whatever the rounding of
float32 would make of it.
"""

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

__all__ = ["batched_nms", "nms", "unscored_nms"]


def nms(boxes: Tensor, scores: Tensor, thr: float) -> Tensor:
    """Suppress boxes that overlap a better one.

    boxes: (n, 4) XYXY pixels. scores: (n,). thr: IoU. Returns int64 (k,), the kept indices by
    falling score, equal scores by index.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    return order[unscored_nms(boxes[order], thr)]


def unscored_nms(boxes: Tensor, thr: float) -> Tensor:
    """Suppress boxes that overlap an earlier one.

    boxes: (n, 4) XYXY pixels in order of preference. thr: IoU. Returns int64 (k,), rising.
    """
    rank = torch.arange(boxes.shape[0], 0, -1, dtype=torch.float64, device=boxes.device)
    kept: Tensor = torchvision_nms(boxes.detach().double(), rank, thr)
    return kept


def batched_nms(boxes: Tensor, scores: Tensor, classes: Tensor, thr: float) -> Tensor:
    """Suppress boxes that overlap a better one of the same class.

    boxes: (n, 4) XYXY pixels. scores: (n,). classes: int64 (n,). thr: IoU. Returns int64 (k,),
    the kept indices by falling score over all classes, equal scores by index.
    """
    if boxes.shape[0] == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    shifted = boxes.detach().double()
    # Classes are moved apart; float64 keeps the overlaps inside a class as they were.
    span = torch.ceil(shifted.max() - shifted.min()) + 1
    return nms(shifted + (classes.double() * span)[:, None], scores, thr)
