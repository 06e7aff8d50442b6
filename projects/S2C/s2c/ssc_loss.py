"""SAM-Segment Contrasting: a pixel's feature is near its segment's mean (S2C, Sec. 3.2, Eq. 4)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .bilinear import BilinearAxis, scatter_mass, upsampled_norm

__all__ = ["segment_contrast_loss"]

_EPS = 1e-12  # of a prototype's norm
_LOGITS = 1 << 20  # (segments, pixels) logits that exist at one time


def segment_contrast_loss(
    features: Tensor, segments: Tensor, *, scale: float = 2.0, absent_logits: bool = False
) -> Tensor:
    """Cross entropy of each pixel's segment among the segments of its image (wsss.md, Sec. 6.3).

    features: float (B, D, h, w), read at the size of segments: int (B, H, W), 0 for pixels that do
    not count, by bilinear upsampling. A segment's prototype is the normalized mean of its pixels'
    normalized features, without gradient; a pixel's logits are ``scale`` times its products with
    them. absent_logits: ids up to the largest of the batch that have no pixel, and id 0, are
    negatives too (released code). Returns the mean over all counted pixels of the batch, float32
    scalar; 0 and still part of the graph if none counts or an image has one segment.

    NOTE: the upsampled features (D, H, W) never exist. Upsampling is linear, so the products with
    the prototypes are taken before it, at (segments, h, w), and a pixel's norm follows from the
    products of neighboring cells. The logits exist in chunks of rows, forward and backward in one
    go; what is kept for the backward pass has the size of the cells.
    """
    total = features.float().sum() * 0.0
    counted = int((segments > 0).sum())
    if not counted:
        return total
    columns = int(segments.max()) + 1
    for row, ids in zip(features, segments, strict=True):
        if bool((ids > 0).any()):
            total = total + _contrast(row.double(), ids.long(), columns, scale, absent_logits)
    return total / counted


def _contrast(
    features: Tensor, ids: Tensor, columns: int, scale: float, absent_logits: bool
) -> Tensor:
    """Sum of the losses of one image's pixels; features (D, h, w), ids (H, W) below columns."""
    across, down = (
        BilinearAxis.between(cells, pixels, features.device)
        for cells, pixels in zip(features.shape[-2:], ids.shape, strict=True)
    )
    norms = upsampled_norm(features, across, down)
    cells = features.flatten(1)
    with torch.no_grad():
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        sums = scatter_mass(inverse, ids, columns, across, down) @ cells.T
        prototypes = F.normalize(sums, dim=1, eps=_EPS)
    target = ids
    if not absent_logits:
        names = torch.unique(ids)
        target = torch.searchsorted(names, ids)
        prototypes = prototypes[names]
        if names[0] == 0:  # pixels that do not count are no segment
            target, prototypes = target - 1, prototypes[1:]
    target = target.masked_fill(ids == 0, -1)
    products = (prototypes @ cells).view(-1, *features.shape[-2:])
    matrices = (across.matrix().float(), down.matrix().float())
    loss: Tensor = _SegmentCrossEntropy.apply(
        products.float(), norms.float(), target, *matrices, scale
    )
    return loss


class _SegmentCrossEntropy(torch.autograd.Function):
    """Sum over counted pixels of ``-log softmax(scale * upsampled products / norm)[target]``.

    products (N, h, w), norms (H, W), target (H, W), -1 for pixels that do not count, and the
    matrices (H, h) and (W, w) of the upsampling. A pixel without a feature (norm 0) has logits 0
    and no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        products: Tensor,
        norms: Tensor,
        target: Tensor,
        rows: Tensor,
        columns: Tensor,
        scale: float,
    ) -> Tensor:
        total = products.new_zeros((), dtype=torch.float64)
        slope, slope_norms = torch.zeros_like(products), torch.zeros_like(norms)
        factors = torch.where(norms > 0, scale / norms, 0.0)
        wide = products @ columns.T
        step = max(_LOGITS // (len(products) * norms.shape[1]), 1)
        for start in range(0, len(norms), step):
            part = slice(start, start + step)
            counts, factor = target[part] >= 0, factors[part]
            ids = target[part].clamp(min=0)[None]
            logits = (rows[part] @ wide).mul_(factor)
            log_sum = logits.logsumexp(dim=0, keepdim=True)
            total += ((log_sum - logits.gather(0, ids))[0] * counts).sum(dtype=torch.float64)
            share = (logits - log_sum).exp_()
            share.scatter_add_(0, ids, share.new_full(ids.shape, -1.0)).mul_(counts)
            along = logits.mul_(share).sum(dim=0)  # d loss / d log factor
            slope_norms[part] = torch.where(norms[part] > 0, -along / norms[part], 0.0)
            slope += rows[part].T @ (share.mul_(factor) @ columns)
        ctx.save_for_backward(slope, slope_norms)
        return total.to(products.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, slope_norms = ctx.saved_tensors
        return grad * slope, grad * slope_norms, None, None, None, None
