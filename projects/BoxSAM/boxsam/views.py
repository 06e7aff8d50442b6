"""The views of an image that CLIP is shown."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["NUM_VIEWS", "PIXEL_MEAN", "PIXEL_STD", "tag_views"]

# Of the images that CLIP was trained on, RGB, 0-255.
PIXEL_MEAN = (122.7709383, 116.7460125, 104.0937362)
PIXEL_STD = (68.5005327, 66.6321579, 70.3231630)
NUM_VIEWS = 6


def tag_views(image: np.ndarray, side: int) -> Tensor:
    """Views of an RGB uint8 image (H, W, 3): float32 (6, 3, side, side), 0-255.

    CLIP's own (the shorter side to ``side``, the middle cut out), the whole image made a square,
    and the four corners of two thirds of height and width, each made a square. The middle alone
    would lose objects at the border. Bicubic, as CLIP. Source: wsss.md, Sec. 7.2.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected an RGB uint8 image (H, W, 3), got {image.dtype} {image.shape}")
    picture = Image.fromarray(image)
    width, height = picture.size
    views = [_middle(picture, side), picture]
    wide, high = max(1, round(width * 2 / 3)), max(1, round(height * 2 / 3))
    for top in (0, height - high):
        for left in (0, width - wide):
            views.append(picture.crop((left, top, left + wide, top + high)))
    squares = [view.resize((side, side), Image.Resampling.BICUBIC) for view in views]
    return torch.from_numpy(np.stack([np.asarray(s) for s in squares])).permute(0, 3, 1, 2).float()


def _middle(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    scale = side / min(width, height)
    size = max(side, int(width * scale)), max(side, int(height * scale))
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return resized.crop((left, top, left + side, top + side))
