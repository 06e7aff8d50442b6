"""Features as colors, to see what contrasting segments does to them (S2C, Fig. 6)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["principal_colors"]


def principal_colors(features: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The three directions in which an image's features differ most, as red, green and blue.

    features: float (D, h, w) with D of at least 3; each pixel is divided by its norm first, as in
    the loss. size: (height, width) of the picture. Signs are chosen so that the mean of the cubed
    values is positive. Returns uint8 (height, width, 3), each color from its least to its largest
    value.

    Raises:
        ValueError: fewer than three channels.
    """
    if len(features) < 3:
        raise ValueError(f"features of {len(features)} channels have no three directions")
    pixels = F.normalize(features.detach().double().flatten(1).T, dim=1)
    centered = pixels - pixels.mean(dim=0)
    _, directions = torch.linalg.eigh(centered.T @ centered)  # rising
    values = centered @ directions[:, -3:].flip(1)
    values = values * torch.where(values.pow(3).mean(dim=0) < 0, -1.0, 1.0)
    low, high = values.amin(dim=0), values.amax(dim=0)
    colors = (values - low) / (high - low).clamp(min=1e-12)
    image = colors.T.reshape(1, 3, *features.shape[1:])
    full = F.interpolate(image, size=size, mode="nearest")[0].permute(1, 2, 0)
    return (255 * full).round().to(torch.uint8).cpu().numpy()
