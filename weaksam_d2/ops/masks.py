"""Functions on binary masks and mask logits: tight boxes, stability, resizing, run-length codes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

__all__ = [
    "decode_rle",
    "encode_rle",
    "masks_above",
    "masks_to_boxes",
    "resize_matrix",
    "stability_score",
]


def masks_above(logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Return where logits are above a threshold, bool of the same shape.

    On a CPU numpy does it, five times faster than torch and exactly equal.
    """
    if logits.device.type != "cpu" or logits.dtype not in (torch.float32, torch.float64):
        return logits > threshold
    return torch.from_numpy(np.asarray(logits.detach().numpy() > threshold))


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the tight box of each mask.

    masks: bool (..., H, W). Returns float32 (..., 4), XYXY half-open pixels
    ``[min column, min row, max column + 1, max row + 1]``; a row of NaN for an empty mask.
    """
    columns, rows = _extent(_any(masks, -2)), _extent(_any(masks, -1))
    boxes = torch.stack([columns[0], rows[0], columns[1], rows[1]], dim=-1).float()
    empty = (columns[1] == 0)[..., None]
    return boxes.masked_fill(empty, float("nan"))


def stability_score(logits: Tensor, offset: float = 1.0) -> Tensor:
    """Return how little a mask changes with its threshold.

    logits: (..., h, w). Returns float32 (...): the number of logits above ``offset`` over the
    number above ``-offset``; NaN where both are 0. Segment Anything, Appendix B.
    """
    high, low = (_count(masks_above(logits, bound)).float() for bound in (offset, -offset))
    return high / low  # 0 / 0 is NaN


def resize_matrix(
    src: int,
    dst: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the matrix of a bilinear resize along one axis, as with ``align_corners=False``.

    src, dst: lengths in pixels. Returns (dst, src), rows sum to 1; an image ``m`` of (h, w) is
    resized by ``A @ m @ B.T``. Raises ValueError if a length is not positive.
    """
    if src < 1 or dst < 1:
        raise ValueError(f"lengths must be positive, got src={src}, dst={dst}")
    position = (torch.arange(dst, dtype=torch.float64) + 0.5) * (src / dst) - 0.5
    position = position.clamp(min=0)
    left = position.floor().long().clamp(max=src - 1)
    right = (left + 1).clamp(max=src - 1)
    weight = position - left
    matrix = torch.zeros(dst, src, dtype=torch.float64)
    row = torch.arange(dst)
    matrix.index_put_((row, left), 1 - weight, accumulate=True)
    matrix.index_put_((row, right), weight, accumulate=True)
    return matrix.to(dtype=dtype, device=device)


def encode_rle(masks: Tensor | NDArray[np.bool_]) -> list[bytes]:
    """Return the compressed COCO run-length counts of each mask.

    masks: bool (n, H, W). Returns n byte strings (column-major runs).
    """
    array = masks.cpu().numpy() if isinstance(masks, Tensor) else masks
    if array.ndim != 3:
        raise ValueError(f"masks must have shape (n, H, W), got {array.shape}")
    return [coco_mask.encode(np.asfortranarray(m, dtype=np.uint8))["counts"] for m in array]


def decode_rle(counts: Sequence[bytes], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the masks of compressed COCO run-length counts.

    counts: n byte strings. size: (height, width). Returns bool (n, H, W).
    """
    masks = np.zeros((len(counts), *size), dtype=np.bool_)
    for row, code in zip(masks, counts, strict=True):
        row[:] = coco_mask.decode({"counts": code, "size": list(size)}).astype(np.bool_)
    return masks


def _any(masks: Tensor, dim: int) -> Tensor:
    if masks.device.type != "cpu":
        return masks.any(dim=dim)
    return torch.from_numpy(masks.numpy().any(axis=dim))  # 20 times faster than torch


def _count(masks: Tensor) -> Tensor:
    """True pixels of bool (..., h, w), int64 (...)."""
    if masks.device.type != "cpu":
        return masks.sum(dim=(-2, -1))
    leading = masks.shape[:-2]
    flat = masks.reshape(leading.numel(), *masks.shape[-2:]).numpy()
    counts = [np.count_nonzero(mask) for mask in flat]  # along an axis it is ten times slower
    return torch.tensor(counts, dtype=torch.int64).reshape(leading)


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First true index and last true index + 1 along the last axis of bool (..., L)."""
    length = line.shape[-1]
    if length == 0:
        zero = torch.zeros(line.shape[:-1], dtype=torch.int64, device=line.device)
        return zero, zero
    index = torch.arange(length, device=line.device)
    first = torch.where(line, index, length).amin(dim=-1)
    last = torch.where(line, index + 1, 0).amax(dim=-1)
    return first, last
