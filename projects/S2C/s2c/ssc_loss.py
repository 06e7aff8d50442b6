"""SAM-Segment Contrasting: a pixel's feature is near its segment's mean (S2C, Sec. 3.2, Eq. 4)."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["segment_contrast_loss"]

_EPS = 1e-12  # of a feature's norm
_PIXELS = 1 << 13  # rows of the (pixels, segments) logits that exist at one time


def segment_contrast_loss(
    features: Tensor, segments: Tensor, *, scale: float = 2.0, absent_logits: bool = False
) -> Tensor:
    """Cross entropy of each pixel's segment among the segments of its image (wsss.md, Sec. 6.3).

    features: float (B, D, h, w), upsampled here to the size of segments: int (B, H, W), 0 for
    pixels that do not count. A segment's prototype is the normalized mean of its pixels' normalized
    features, without gradient; a pixel's logits are ``scale`` times its products with them.
    absent_logits: ids up to the largest of the batch that have no pixel, and id 0, are negatives
    too (released code). Returns the mean over all counted pixels of the batch, float32 scalar; 0
    and still part of the graph if none counts or an image has one segment.

    NOTE: what is paid is one product of (pixels, D) with (D, segments) for each image, in chunks,
    forward and backward in one go: the (segments, H, W) logits of the formula never exist.
    """
    total = features.float().sum() * 0.0
    counted = int((segments > 0).sum())
    if not counted:
        return total
    columns = int(segments.max()) + 1
    for row, ids in zip(features, segments, strict=True):
        pixels = _upsampled(row, ids)
        total = total + _contrast(pixels, ids.flatten().long(), columns, scale, absent_logits)
    return total / counted


def _upsampled(features: Tensor, ids: Tensor) -> Tensor:
    """(D, h, w) features as float32 (pixels, D); channels last, so that pixels are rows."""
    image = features.float()[None].contiguous(memory_format=torch.channels_last)
    if image.shape[-2:] != ids.shape:
        image = F.interpolate(image, size=tuple(ids.shape), mode="bilinear", align_corners=False)
    return image[0].permute(1, 2, 0).reshape(ids.numel(), -1)


def _contrast(
    pixels: Tensor, ids: Tensor, columns: int, scale: float, absent_logits: bool
) -> Tensor:
    """Sum of the losses of one image's pixels; ids int64 (pixels,) below columns."""
    valid = torch.nonzero(ids > 0)[:, 0]
    if not len(valid):
        return pixels.new_zeros(())
    with torch.no_grad():
        norms = pixels.norm(dim=1, keepdim=True)
        unit = pixels / norms.clamp(min=_EPS)
        sums = unit.new_zeros(columns, unit.shape[1]).index_add_(0, ids, unit)
        prototypes = F.normalize(sums, dim=1, eps=_EPS)
    target = ids[valid]
    if not absent_logits:
        present, target = torch.unique(target, return_inverse=True)
        prototypes = prototypes[present]
    loss: Tensor = _SegmentCrossEntropy.apply(pixels, unit, norms, valid, target, prototypes, scale)
    return loss


class _SegmentCrossEntropy(torch.autograd.Function):
    """Sum over rows of ``-log softmax(scale * unit @ prototypes.T)[target]``.

    unit are the pixels divided by their norms. The gradient for the pixels is computed with the
    loss and takes the memory of the pixels, whatever the number of segments. A pixel without a
    feature (norm 0) has no direction and gets none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Tensor,
        unit: Tensor,
        norms: Tensor,
        rows: Tensor,
        target: Tensor,
        prototypes: Tensor,
        scale: float,
    ) -> Tensor:
        gradient = torch.zeros_like(pixels) if ctx.needs_input_grad[0] else None
        total = pixels.new_zeros((), dtype=torch.float64)
        for start in range(0, len(rows), _PIXELS):
            part, ids = rows[start : start + _PIXELS], target[start : start + _PIXELS, None]
            given = unit[part]
            logits = (given @ prototypes.T).mul_(scale)
            log_sum = logits.logsumexp(dim=1, keepdim=True)
            total += (log_sum - logits.gather(1, ids)).sum(dtype=torch.float64)
            if gradient is None:
                continue
            share = logits.sub_(log_sum).exp_()
            share.scatter_add_(1, ids, share.new_full(ids.shape, -1.0))
            toward = share @ prototypes
            along = (toward * given).sum(dim=1, keepdim=True)
            length = norms[part]
            factor = (scale / length.clamp(min=_EPS)).masked_fill_(length < _EPS, 0.0)
            gradient[part] = toward.sub_(given.mul_(along)).mul_(factor)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total.to(pixels.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * slope, None, None, None, None, None, None
