"""Concrete DropBlock: which cells of pooled regions are dropped, and what is left of them."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["apply_drop_block", "sample_centers"]

_SMALLEST = 1e-12  # a probability whose logarithm is still finite


def sample_centers(probability: Tensor, *, temperature: float, hard: bool = True) -> Tensor:
    """Draw which cells are centers of dropped blocks, with a gradient for the probability.

    probability: (...) in [0, 1]. temperature: of the two-way Gumbel softmax. hard: the values are
    0 and 1 and the gradient is that of the soft ones (straight-through). Returns float32 (...).
    Gumbel softmax (Jang et al. 2017); MIST (Ren et al. 2020), Sec. 3.4.
    """
    probability = probability.float()
    pair = torch.stack([probability, 1 - probability], dim=-1).clamp(min=_SMALLEST)
    return F.gumbel_softmax(pair.log(), tau=temperature, hard=hard)[..., 0]


def apply_drop_block(features: Tensor, centers: Tensor, *, size: int) -> Tensor:
    """Set blocks of pooled regions to zero and raise the rest to the same sum.

    features: (R, channels, h, w). centers: (R, 1, h, w) in [0, 1]; each drops the ``size`` x
    ``size`` cells around it (``size`` odd), in all channels. The rest is multiplied by the number
    of cells of all R regions over the number that is left. If none is left the features are
    returned as they are. Raises ValueError for an even size. MIST, Sec. 3.4; weaksam.md, Sec. 5.5.
    """
    if size % 2 == 0:
        raise ValueError(f"MODEL.WSOD.DROPBLOCK.SIZE must be odd, got {size}")
    if len(features) == 0:
        return features
    keep = 1 - F.max_pool2d(centers, size, stride=1, padding=size // 2)
    left = keep.sum()
    scale = keep.numel() / torch.where(left > 0, left, torch.ones_like(left))
    # Without a look at the value, which would wait for the device.
    factor = torch.where(left > 0, keep * scale, torch.ones_like(keep))
    return features * factor.to(features.dtype)
