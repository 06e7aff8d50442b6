"""Label images: 8-bit PNG of one channel, whose values are label ids."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from weaksam_d2.artifacts.io import Array, ArtifactError, atomic_write

__all__ = ["IGNORE", "read_label_png", "write_label_png"]

IGNORE = 255
_MODES = ("L", "P", "I;16", "I;16B", "I")  # older versions of Pillow open 16 bits as "I"
_BIT_DEPTH_AT = 24  # byte of a PNG file, behind signature, chunk header, width and height


def read_label_png(
    path: Path, *, num_labels: int | None = None, size: tuple[int, int] | None = None
) -> Array:
    """Label ids of a PNG file: gray values, or the indices of a palette, never its colors.

    num_labels: largest id + 1; None: any id. size: (height, width). Returns uint8 (H, W), 255
    where there is no label.

    Raises:
        ArtifactError: no PNG, colors, another size, or a value beyond the labels; names file and
            value.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            _check_kind(path, image)
            label = np.array(image)
    except (UnidentifiedImageError, SyntaxError, EOFError, struct.error) as error:
        raise ArtifactError(f"{path} is no readable PNG ({error}): write it again") from error
    except OSError as error:
        if error.errno is not None:  # the file cannot be had, which is not the file's fault
            raise
        raise ArtifactError(f"{path} is damaged or cut off ({error}): write it again") from error
    return _checked(path, label, num_labels, size)


def _check_kind(path: Path, image: Image.Image) -> None:
    if image.format != "PNG":
        raise ArtifactError(
            f"{path} is a {image.format} file, expected PNG: other formats change label values"
        )
    if image.mode not in _MODES:
        raise ArtifactError(
            f"{path} has mode {image.mode}, expected one channel of label ids (L or P): colors are "
            "not label ids, convert it with the palette that it was drawn with"
        )
    with open(path, "rb") as file:
        depth = file.read(_BIT_DEPTH_AT + 1)[_BIT_DEPTH_AT]
    if image.mode == "L" and depth < 8:  # Pillow would stretch the values to 0-255
        raise ArtifactError(f"{path} is a gray image of {depth} bits, expected 8")


def _checked(
    path: Path, label: Array, num_labels: int | None, size: tuple[int, int] | None
) -> Array:
    if size is not None and label.shape != tuple(size):
        raise ArtifactError(
            f"{path} is {label.shape[0]} x {label.shape[1]} (height x width), its image is "
            f"{size[0]} x {size[1]}"
        )
    limit = IGNORE if num_labels is None else num_labels - 1
    wrong = label[(label != IGNORE) & ((label > limit) | (label < 0))]
    if wrong.size:
        raise ArtifactError(
            f"{path} holds the value {int(wrong[0])}, expected label ids from 0 to {limit}, or "
            f"{IGNORE} (ignored)"
        )
    return label.astype(np.uint8)


def write_label_png(path: Path, label: Array) -> None:
    """Write label ids as an 8-bit gray PNG (mode L), atomically.

    Not with a palette: detectron2's DatasetMapper would read its luminance in place of the ids.

    Raises:
        ValueError: not a uint8 (H, W) array with pixels.
    """
    array = np.asarray(label)
    if array.ndim != 2 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"cannot write {path}: a label image must be uint8 (H, W), got {array.dtype} "
            f"{array.shape}"
        )
    with atomic_write(Path(path)) as temporary:
        Image.fromarray(np.ascontiguousarray(array)).save(temporary, format="PNG")
