"""What `labels.json` says: of all label images, and of each."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts.io import Array, ImageId, dump_json
from weaksam_d2.artifacts.label_png import IGNORE
from weaksam_d2.artifacts.label_space import LabelSpace
from weaksam_d2.artifacts.sem_seg_labels import (
    BASES,
    FORMAT,
    SUPERVISIONS,
    check_tags,
    count_pixels,
    label_file_name,
)

__all__ = ["LABELS_FOLDER", "index_header", "label_entry", "write_index"]

LABELS_FOLDER = "labels"


def index_header(space: LabelSpace, *, system: str, base: str, supervision: str) -> dict[str, Any]:
    """What made the labels and what their values mean.

    Raises:
        ValueError: an unknown base or supervision, or a space that ignores another value than 255.
    """
    if base not in BASES or supervision not in SUPERVISIONS:
        raise ValueError(
            f"base is {base!r}, expected one of {BASES}; supervision is {supervision!r}, "
            f"expected one of {SUPERVISIONS}"
        )
    if space.ignore != IGNORE:
        raise ValueError(f"label images take ignore {IGNORE}, {space} has {space.ignore}")
    return {
        "format": FORMAT,
        "label_space": space.describe(),
        "system": str(system),
        "base": base,
        "supervision": supervision,
    }


def label_entry(
    image_id: ImageId,
    label: Array,
    space: LabelSpace,
    *,
    tags: Sequence[int] = (),
    flags: Sequence[str] = (),
) -> dict[str, Any]:
    """{"file", "size", "tags", "pixels", "flags"} of labels uint8 (H, W); nothing is written.

    Raises:
        ValueError: no such array, a value that is no label, or an unknown class; names the image.
    """
    array = np.asarray(label)
    if array.ndim != 2 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"label of image {image_id!r} must be uint8 (H, W), got {array.dtype} {array.shape}"
        )
    pixels = count_pixels(array)
    for value in map(int, pixels):
        if value >= space.num_labels and value != space.ignore:
            raise ValueError(
                f"label of image {image_id!r} holds {value}, expected 0 to "
                f"{space.num_labels - 1} or {space.ignore}"
            )
    return {
        "file": f"{LABELS_FOLDER}/{label_file_name(image_id)}",
        "size": [int(side) for side in array.shape],
        "tags": check_tags(image_id, tags, space),
        "pixels": pixels,
        "flags": [str(flag) for flag in flags],
    }


def write_index(
    path: Path, header: dict[str, Any], images: Iterable[tuple[ImageId, dict[str, Any]]]
) -> None:
    """`labels.json`, a line for each image; images are taken, and written, one by one."""
    head = "".join(f" {dump_json(key)}: {dump_json(value)},\n" for key, value in header.items())
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{{\n{head} "images": {{')
        count = 0
        for count, (image_id, entry) in enumerate(images, start=1):
            file.write(f"{',' if count > 1 else ''}\n  {dump_json(image_id)}: {dump_json(entry)}")
        file.write("\n }\n}\n" if count else "}\n}\n")
