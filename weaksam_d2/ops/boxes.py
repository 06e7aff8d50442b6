"""Functions on boxes: XYXY, absolute, half-open pixels (a width is ``x2 - x1``, never plus one)."""

import torch
from torch import Tensor

__all__ = [
    "box_area",
    "clip_boxes",
    "deduplicate",
    "encode_boxes",
    "pairwise_iof",
    "pairwise_iou",
    "valid_boxes",
]


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of each box.

    boxes: (..., 4). Returns (...) square pixels; a box with a negative side has area 0.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


@torch.no_grad()
def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every box of ``a`` with every box of ``b``.

    a: (..., n, 4), b: (..., m, 4), the same leading dimensions. Returns (..., n, m) in [0, 1],
    float32 (float64 stays float64), without a gradient; 0 where the union is empty.
    """
    a, b = _at_least_float32(a), _at_least_float32(b)
    inter = _pairwise_intersection(a, b)
    union = (box_area(a)[..., :, None] + box_area(b)[..., None, :]).sub_(inter)
    return _safe_ratio_(inter, union)


@torch.no_grad()
def pairwise_iof(a: Tensor, b: Tensor) -> Tensor:
    """Return the share of every box of ``a`` that lies inside every box of ``b``.

    a: (..., n, 4), b: (..., m, 4). Returns (..., n, m) in [0, 1], without a gradient:
    intersection over the area of ``a``, so it is not symmetric; 0 where ``a`` has no area.
    WeakSAM, Sec. 3.3, Alg. 2.
    """
    a, b = _at_least_float32(a), _at_least_float32(b)
    return _safe_ratio_(_pairwise_intersection(a, b), box_area(a)[..., :, None])


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes to an image.

    boxes: (..., 4). size: (height, width). Returns a new tensor; NaN stays NaN.
    """
    height, width = size
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def valid_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Tell which boxes are finite and keep a positive width and height inside the image.

    boxes: (..., 4). size: (height, width). Returns bool (...).
    """
    clipped = clip_boxes(boxes, size)
    positive = (clipped[..., 2:] > clipped[..., :2]).all(dim=-1)
    return positive & torch.isfinite(boxes).all(dim=-1)


def deduplicate(boxes: Tensor, step: float) -> Tensor:
    """Return the index of the first of each group of boxes that are equal on a grid of ``step``.

    boxes: finite (n, 4). step: pixels; two boxes are equal if all coordinates round to the same
    multiple of it. Returns int64 (k,), rising. Raises ValueError if step is not positive.
    """
    if step <= 0:
        raise ValueError(f"step must be a positive number of pixels, got {step}")
    if boxes.shape[0] == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    keys = torch.round(boxes.double() / step).long()
    unique, group = torch.unique(keys, dim=0, return_inverse=True)
    index = torch.arange(boxes.shape[0], device=boxes.device)
    first = torch.full((unique.shape[0],), boxes.shape[0], device=boxes.device)
    first.scatter_reduce_(0, group, index, reduce="amin")
    return first.sort().values


def encode_boxes(
    targets: Tensor, boxes: Tensor, weights: tuple[float, float, float, float] = (10, 10, 5, 5)
) -> Tensor:
    """Return what a box regressor has to say at ``boxes`` to arrive at ``targets``.

    targets, boxes: (..., 4), positive width and height. weights: factors of the four numbers.
    Returns (..., 4): shift of the center over width and over height, then log of the ratio of
    widths and of heights, each times its weight. No device synchronization. R-CNN (Girshick et
    al. 2014), App. C.
    """
    sides, target_sides = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    shift = targets[..., :2] - boxes[..., :2] + 0.5 * (target_sides - sides)
    deltas = torch.cat([shift / sides, torch.log(target_sides / sides)], dim=-1).unbind(dim=-1)
    # Weighted one by one: a tensor of the weights would be copied to the device each time.
    return torch.stack([d * w for d, w in zip(deltas, weights, strict=True)], dim=-1)


def _at_least_float32(boxes: Tensor) -> Tensor:
    # Half precision holds pixel coordinates above 2048 only in steps of 2.
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def _pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    # One coordinate at a time, each without gaps, and in place: several times faster than pairs
    # of coordinates in the last dimension.
    ax1, ay1, ax2, ay2 = (x.contiguous()[..., :, None] for x in a.unbind(dim=-1))
    bx1, by1, bx2, by2 = (x.contiguous()[..., None, :] for x in b.unbind(dim=-1))
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0)
    return width.mul_(height)


def _safe_ratio_(part: Tensor, whole: Tensor) -> Tensor:
    empty = ~(whole > 0)
    return part.div_(whole).masked_fill_(empty, 0)
