"""Sine embeddings of pixels and of reference boxes; boxes and their logits."""

import math

import torch
from torch import Tensor

from .pyramid import Pyramid

__all__ = ["box_embedding", "inverse_sigmoid", "pixel_embedding", "sine_embedding"]

_BOX_TEMPERATURE = 10000.0
_EPS = 1e-3  # of the inverse sigmoid, in published training as well
_SIZE_EPS = 1e-6


def sine_embedding(values: Tensor, count: int, temperature: float) -> Tensor:
    """Embed angles (..., ) as (..., count): sine and cosine in turn, at falling frequencies.

    Entries 2i and 2i + 1 are sine and cosine of ``value / temperature^(2i / count)``. float32.

    Raises:
        ValueError: an odd count.
    """
    if count % 2:
        raise ValueError(f"a sine embedding has pairs of entries, got a count of {count}")
    powers = torch.arange(0, count, 2, device=values.device, dtype=torch.float32) / count
    angles = values.float()[..., None] / temperature**powers
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def pixel_embedding(pyramid: Pyramid, width: int, *, temperature: float, offset: float) -> Tensor:
    """Embed the cells of all levels: (N, S, width), the first half says y, the second x.

    A coordinate counts cells from 1, plus ``offset``, as a share of the cells in the image, times
    2 pi. Cells of the padding go on counting: nothing looks at them.

    Source: extras.md, Sec. 1.1; DETR, appendix A.4.
    """
    filled = pyramid.by_cell(pyramid.filled)
    angles = (pyramid.cells + 1 + offset) / (filled + _SIZE_EPS) * (2 * math.pi)
    return sine_embedding(angles.flip(-1), width // 2, temperature).flatten(-2)


def box_embedding(boxes: Tensor, width: int) -> Tensor:
    """Embed boxes (..., 4) in units of the image as (..., 2 * width), in the order y, x, w, h.

    Source: extras.md, Sec. 1.1; DAB-DETR, Sec. 4.2.
    """
    ordered = boxes[..., [1, 0, 2, 3]] * (2 * math.pi)
    return sine_embedding(ordered, width // 2, _BOX_TEMPERATURE).flatten(-2)


def inverse_sigmoid(boxes: Tensor) -> Tensor:
    """Logits of coordinates; those nearer than 1e-3 to 0 or 1 are taken at that distance.

    NOTE: as published code does, both terms of the quotient are limited apart, so the gradient
    of a limited term is 0.
    """
    boxes = boxes.float().clamp(0, 1)
    return boxes.clamp(min=_EPS).log() - (1 - boxes).clamp(min=_EPS).log()
