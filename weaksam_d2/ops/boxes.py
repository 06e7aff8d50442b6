"""Functions on boxes: XYXY, absolute, half-open pixels (a width is ``x2 - x1``, never plus one)."""

import torch
from torch import Tensor

__all__ = ["box_area", "clip_boxes", "deduplicate", "pairwise_iof", "pairwise_iou", "valid_boxes"]


def box_area(boxes: Tensor) -> Tensor:
    """Return the area of each box.

    boxes: (..., 4). Returns (...) square pixels; a box with a negative side has area 0.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of every box of ``a`` with every box of ``b``.

    a: (..., n, 4), b: (..., m, 4), the same leading dimensions. Returns (..., n, m) in [0, 1],
    float32 (float64 stays float64); 0 where the union is empty.
    """
    a, b = _at_least_float32(a), _at_least_float32(b)
    inter = _pairwise_intersection(a, b)
    union = box_area(a)[..., :, None] + box_area(b)[..., None, :] - inter
    return _safe_ratio(inter, union)


def pairwise_iof(a: Tensor, b: Tensor) -> Tensor:
    """Return the share of every box of ``a`` that lies inside every box of ``b``.

    a: (..., n, 4), b: (..., m, 4). Returns (..., n, m) in [0, 1]: intersection over the area of
    ``a``, so it is not symmetric; 0 where ``a`` has no area. WeakSAM, Sec. 3.3, Alg. 2.
    """
    a, b = _at_least_float32(a), _at_least_float32(b)
    return _safe_ratio(_pairwise_intersection(a, b), box_area(a)[..., :, None])


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


def _at_least_float32(boxes: Tensor) -> Tensor:
    # Half precision holds pixel coordinates above 2048 only in steps of 2.
    return boxes if boxes.dtype == torch.float64 else boxes.float()


def _pairwise_intersection(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def _safe_ratio(part: Tensor, whole: Tensor) -> Tensor:
    ratio = part / torch.where(whole > 0, whole, torch.ones_like(whole))
    return torch.where(whole > 0, ratio, torch.zeros_like(ratio))
