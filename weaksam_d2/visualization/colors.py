"""Fixed, distinct colors of classes and of prompt sources."""

import colorsys
from collections.abc import Sequence

import numpy as np

__all__ = ["class_color", "hex_color", "text_color"]

# Twenty hues that stay apart on photographs; neighbors in the list differ in hue and lightness.
_PALETTE: tuple[tuple[int, int, int], ...] = (
    (255, 176, 0),
    (0, 158, 255),
    (255, 72, 96),
    (0, 200, 120),
    (186, 104, 255),
    (255, 118, 32),
    (0, 214, 214),
    (255, 105, 200),
    (160, 214, 0),
    (96, 120, 255),
    (255, 224, 64),
    (0, 140, 140),
    (200, 60, 160),
    (120, 200, 255),
    (196, 130, 60),
    (90, 230, 160),
    (230, 150, 160),
    (60, 90, 200),
    (220, 220, 150),
    (150, 80, 80),
)
# Conjugate of the golden ratio: successive hues never come close to each other.
_GOLDEN = 0.618033988749895


def class_color(index: int) -> tuple[float, float, float]:
    """Color of a contiguous class (or source) as RGB in [0, 1]; equal in every figure."""
    if index < 0:
        return (0.92, 0.92, 0.92)
    if index < len(_PALETTE):
        red, green, blue = _PALETTE[index]
        return (red / 255, green / 255, blue / 255)
    return colorsys.hsv_to_rgb((index * _GOLDEN) % 1.0, 0.75, 0.95)


def hex_color(color: Sequence[float]) -> str:
    """Write an RGB color in [0, 1] as ``#rrggbb``."""
    return "#" + "".join(f"{round(255 * float(np.clip(part, 0, 1))):02x}" for part in color)


def text_color(background: Sequence[float]) -> str:
    """Black or white, whichever is easier to read on an RGB color in [0, 1]."""
    red, green, blue = background
    # Relative luminance with the weights of ITU-R BT.709.
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"
