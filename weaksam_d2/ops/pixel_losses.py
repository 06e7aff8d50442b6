"""Losses of pixels, averaged over those that have a label."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["clip_pixel_losses", "pixel_cross_entropy"]


def pixel_cross_entropy(logits: Tensor, labels: Tensor, *, ignore: int = 255) -> Tensor:
    """Cross entropy summed over all pixels of a batch that have a label, over their number.

    logits: (N, C, H, W). labels: (N, H, W) int64, ``ignore`` without label. A batch without any
    label gives 0 (and gradients of 0), not NaN.

    Source: wsss.md, Sec. 8.4.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="sum")
    return total / (labels != ignore).sum().clamp(min=1)


def clip_pixel_losses(
    losses: Tensor, valid: Tensor, *, start: float = 1.2, patch: int = 120
) -> Tensor:
    """Cut off the largest losses; those that are cut off give no gradient.

    losses, valid: (N, H, W), float and bool. Nothing happens while the mean loss of the valid
    pixels is above ``start``. Then no loss exceeds the mean of its window and the mean of the
    batch, whichever is larger. Windows are ``patch`` pixels high and wide, from the upper left
    corner, and their means are over the valid pixels of all images of the batch.

    Source: WeakTr (arXiv 2304.01184), online retraining; wsss.md, Sec. 3.3.
    """
    known = torch.where(valid, losses.detach(), losses.new_zeros(()))
    mean = known.sum() / valid.sum().clamp(min=1)
    height, width = losses.shape[-2:]
    # Sums over the batch; the last windows are filled up with pixels that do not count.
    missing = (0, -width % patch, 0, -height % patch)
    sums = F.pad(torch.stack([known.sum(dim=0), valid.sum(dim=0).to(losses.dtype)]), missing)
    total, count = F.avg_pool2d(sums[None], patch, divisor_override=1)[0]
    limit = torch.maximum(total / count.clamp(min=1), mean)
    limit = limit.repeat_interleave(patch, dim=0).repeat_interleave(patch, dim=1)
    capped = torch.minimum(losses, limit[:height, :width])
    return torch.where(mean <= start, capped, losses)
