"""Label images that other programs wrote, read as our own are."""

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from weaksam_d2.artifacts.io import Array, ArtifactError, ImageId
from weaksam_d2.artifacts.label_png import read_label_png
from weaksam_d2.artifacts.label_space import LabelSpace
from weaksam_d2.artifacts.sem_seg_labels import INDEX_NAME, SemSegLabels, count_pixels

__all__ = ["ForeignLabels", "open_label_folder"]


class ForeignLabels:
    """A folder of `<id>.png` that another program wrote; reads as `SemSegLabels` does.

    ``encoding`` is one of `label_space.MASK_ENCODINGS`; files of other kinds are left out.
    ``system`` is "foreign"; tags and what the labels were made from are not known.

    Raises:
        ArtifactError: a folder without PNG files. ValueError: an unknown encoding.
    """

    system, base, supervision = "foreign", "custom", "unknown"

    def __init__(self, folder: Path, space: LabelSpace, *, encoding: str = "labels") -> None:
        self.folder = Path(folder).absolute()
        self.space = space
        self.encoding = encoding
        space.convert_mask(np.zeros((1, 1), np.uint8), encoding)  # refuses an unknown encoding
        files = self.folder.glob("*.png") if self.folder.is_dir() else ()
        self._files = {unquote(p.name.removesuffix(".png")): p for p in sorted(files)}
        if not self._files:
            raise ArtifactError(f"{folder} is no folder with label images <image id>.png")
        self.image_ids: list[ImageId] = list(self._files)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._files

    def __getitem__(self, image_id: ImageId) -> Array:
        path = self.path(image_id)
        return self.space.convert_mask(read_label_png(path), self.encoding, str(path))

    def path(self, image_id: ImageId) -> Path:
        """The label image of an image. KeyError: there is no such image."""
        if image_id not in self._files:
            raise KeyError(f"image {image_id!r} is not in {self.folder} ({len(self)} images)")
        return self._files[image_id]

    def entry(self, image_id: ImageId) -> dict[str, Any]:
        """{"file", "size", "pixels", "flags"}, found in the image; the tags are not known."""
        label = self[image_id]
        return {
            "file": self.path(image_id).name,
            "size": list(label.shape),
            "pixels": count_pixels(label),
            "flags": [],
        }

    def image_size(self, image_id: ImageId) -> tuple[int, int]:
        """(height, width) of an image. KeyError: there is no such image."""
        height, width = self[image_id].shape
        return int(height), int(width)


def open_label_folder(
    path: Path, space: LabelSpace | None = None, *, encoding: str = "labels"
) -> SemSegLabels | ForeignLabels:
    """Open our artifact, or any folder of `<id>.png` as labels of ``space``.

    Raises:
        ArtifactError: neither, or our artifact with another label space. ValueError: a foreign
            folder and no ``space``, or an unknown encoding.
    """
    if (Path(path) / INDEX_NAME).is_file():
        labels = SemSegLabels.open(path)
        if space is not None:
            space.check_same(labels.space, str(path))
        return labels
    if space is None:
        raise ValueError(f"{path} has no {INDEX_NAME}: say which label space its images have")
    return ForeignLabels(path, space, encoding=encoding)
