"""Boxes between an image and a view of it that is resized and perhaps mirrored."""

import torch
from torch import Tensor

__all__ = ["image_to_view", "view_to_image"]

Size = tuple[int, int]


def image_to_view(boxes: Tensor, image_size: Size, view_size: Size, *, flipped: bool) -> Tensor:
    """Return where boxes of an image lie in its view: resized first, then mirrored left to right.

    boxes: (..., 4) XYXY half-open pixels of the image. Sizes: (height, width). Returns (..., 4)
    pixels of the view, not clipped.
    """
    scaled = _scale(boxes, image_size, view_size)
    return _mirror(scaled, view_size[1]) if flipped else scaled


def view_to_image(boxes: Tensor, image_size: Size, view_size: Size, *, flipped: bool) -> Tensor:
    """Undo :func:`image_to_view`: boxes (..., 4) in pixels of the view to pixels of the image."""
    unflipped = _mirror(boxes, view_size[1]) if flipped else boxes
    return _scale(unflipped, view_size, image_size)


def _scale(boxes: Tensor, given: Size, wanted: Size) -> Tensor:
    x, y = wanted[1] / given[1], wanted[0] / given[0]
    return torch.stack([b * f for b, f in zip(boxes.unbind(dim=-1), (x, y, x, y), strict=True)], -1)


def _mirror(boxes: Tensor, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)
