"""The one image reader: EXIF orientation applied, any color mode, damaged files named."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from detectron2.data import detection_utils
from PIL import Image

__all__ = ["DamagedImageError", "damaged_image_is_named", "image_size", "read_image"]

_FORMATS = ("RGB", "BGR")
# EXIF orientations 5-8 swap height and width.
_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = (5, 6, 7, 8)


class DamagedImageError(ValueError):
    """An image file that exists but cannot be decoded (truncated, empty, not an image)."""


@contextmanager
def damaged_image_is_named(file_name: str | Path) -> Iterator[None]:
    """Turn every decoding failure inside the block into a :class:`DamagedImageError`.

    A missing file stays a ``FileNotFoundError``: that is another mistake with another remedy.
    """
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        # Pillow reports broken PNG chunks as SyntaxError and broken headers as struct.error.
        raise DamagedImageError(
            f"image file '{file_name}' cannot be decoded ({error}); expected a complete image "
            "file. Copy it again or leave it out of the data set."
        ) from error


def read_image(file_name: str | Path, format: str = "RGB") -> np.ndarray:
    """Read an image, with its EXIF rotation applied, as (H, W, 3) uint8.

    ``format`` is "RGB" or "BGR"; gray, palette and CMYK files are converted.

    Raises:
        DamagedImageError: the file is empty, truncated or no image.
        ValueError: unknown ``format``.
    """
    if format not in _FORMATS:
        raise ValueError(f"image format '{format}' is unknown; expected one of {_FORMATS}")
    with damaged_image_is_named(file_name):
        return np.ascontiguousarray(detection_utils.read_image(str(file_name), format=format))


def image_size(file_name: str | Path) -> tuple[int, int]:
    """Return (height, width) of an image file after its EXIF rotation; only the header is read.

    Raises:
        DamagedImageError: the file is empty or no image.
    """
    with damaged_image_is_named(file_name), Image.open(file_name) as image:
        width, height = image.size
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    return (width, height) if orientation in _TRANSPOSED else (height, width)
