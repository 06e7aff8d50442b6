"""Semantic pseudo labels of a data set: `labels/<id>.png` and what is known of each."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts.io import Array, ArtifactError, ImageId, read_json
from weaksam_d2.artifacts.label_png import read_label_png
from weaksam_d2.artifacts.label_space import LabelSpace

__all__ = [
    "BASES",
    "FORMAT",
    "INDEX_NAME",
    "SUPERVISIONS",
    "SemSegLabels",
    "check_tags",
    "count_pixels",
    "label_file_name",
]

FORMAT = "weaksam_d2.sem_seg_labels/1"
INDEX_NAME = "labels.json"
BASES = ("paper", "reference", "custom")
SUPERVISIONS = ("image_labels", "none", "given_boxes")

# What some file system takes as more than a part of a name; a dot in front hides a file.
_UNSAFE = re.compile(r'^\.|[%/\\:*?"<>|\x00-\x1f]')


def label_file_name(image_id: ImageId) -> str:
    """`<id>.png`, one file for each id: unsafe characters, such as "/", become %XX.

    Raises:
        ValueError: an empty id.
    """
    if not image_id:
        raise ValueError("an image id is empty: label files are named by them")
    return _UNSAFE.sub(lambda match: f"%{ord(match.group()):02X}", image_id) + ".png"


def count_pixels(label: Array) -> dict[str, int]:
    """Pixels of each label id that occurs, as in `labels.json`; they sum to H * W."""
    counts = np.bincount(label.ravel(), minlength=256)
    return {str(value): int(counts[value]) for value in np.flatnonzero(counts)}


class SemSegLabels:
    """Label images of a data set, read only; ``labels[image_id]`` gives uint8 (H, W).

    ``space`` tells what the values mean, ``system`` and ``base`` what made them, ``supervision``
    what it was given.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()
        path = self.folder / INDEX_NAME
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: {folder} is no {FORMAT} artifact")
        index = read_json(path)
        found = index.get("format") if isinstance(index, dict) else None
        if found != FORMAT:
            raise ArtifactError(f"{path} has format {found!r}, expected {FORMAT!r}")
        try:
            self.space = LabelSpace.from_description(str(path), index["label_space"])
            self.system, self.base = str(index["system"]), str(index["base"])
            self.supervision = str(index["supervision"])
            self._images: dict[ImageId, dict[str, Any]] = dict(index["images"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{path} lacks or garbles {error}: write it again") from error
        for image_id, entry in self._images.items():
            _check_entry(path, image_id, entry)
        self.image_ids: list[ImageId] = list(self._images)

    @classmethod
    def open(cls, folder: Path) -> "SemSegLabels":
        """Read `labels.json`; images are read when they are asked for.

        Raises:
            ArtifactError: no such artifact, or an inconsistent one; names the file.
        """
        return cls(folder)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def __getitem__(self, image_id: ImageId) -> Array:
        size = self.image_size(image_id)
        return read_label_png(self.path(image_id), num_labels=self.space.num_labels, size=size)

    def entry(self, image_id: ImageId) -> dict[str, Any]:
        """{"file", "size" [height, width], "tags", "pixels", "flags"} of an image.

        Raises:
            KeyError: there is no such image.
        """
        if image_id not in self._images:
            raise KeyError(f"image {image_id!r} is not in {self.folder} ({len(self)} images)")
        return self._images[image_id]

    def path(self, image_id: ImageId) -> Path:
        """The label image of an image. KeyError: there is no such image."""
        return self.folder / str(self.entry(image_id)["file"])

    def image_size(self, image_id: ImageId) -> tuple[int, int]:
        """(height, width) of an image. KeyError: there is no such image."""
        height, width = self.entry(image_id)["size"]
        return int(height), int(width)


def _check_entry(path: Path, image_id: ImageId, entry: dict[str, Any]) -> None:
    try:
        height, width = entry["size"]
        total, tags, flags = sum(entry["pixels"].values()), entry["tags"], entry["flags"]
        inside = not Path(entry["file"]).is_absolute() and ".." not in Path(entry["file"]).parts
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: the entry of image {image_id!r} is wrong ({error})"
        ) from error
    if total != height * width or not inside or not isinstance(tags, list | tuple):
        raise ArtifactError(
            f"{path}: image {image_id!r} has {total} pixels in {entry['file']!r}, expected "
            f"{height * width} for {height} x {width}, in a file of the artifact"
        )
    if not all(isinstance(flag, str) for flag in flags):
        raise ArtifactError(f"{path}: flags of image {image_id!r} must be texts, got {flags}")


def check_tags(image_id: ImageId, tags: Sequence[int], space: LabelSpace) -> list[int]:
    """Rising contiguous classes without repeats. ValueError: one that the space does not have."""
    found = sorted({int(tag) for tag in tags})
    if found and not 0 <= found[0] <= found[-1] < space.num_labels - 1:
        raise ValueError(
            f"image {image_id!r} has tags {found}, expected classes from 0 to "
            f"{space.num_labels - 2} of {space.name!r}"
        )
    return found
