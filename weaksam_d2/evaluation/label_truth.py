"""The true label maps of a data set: from label images, or painted from true masks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import LabelSpace, read_label_png
from weaksam_d2.ops import paint_first_wins

__all__ = ["TrueLabels", "truth_name", "truth_reader"]


def truth_name(dataset: str) -> str:
    """The set that holds the true label maps of a data set: its twin, else itself.

    Raises:
        KeyError: not registered.
    """
    if dataset not in DatasetCatalog.list():
        raise KeyError(f"data set {dataset!r} is not registered")
    return str(MetadataCatalog.get(dataset).get("sem_seg_evaluation_name", "")) or dataset


def truth_reader(name: str) -> "TrueLabels":
    """The true label maps of a data set, or of the set that its metadata names; see `TrueLabels`.

    Raises:
        KeyError: not registered. ValueError: nobody has labeled its pixels.
    """
    return TrueLabels(truth_name(name))


class TrueLabels:
    """True label maps by image id: ``truth(image_id)`` is uint8 (H, W), 255 for no label.

    ``name`` is a registered set of records with ``sem_seg_file_name``, whose values the metadata
    ``label_lut``, uint8 (256,), turns into labels, or else of records whose annotations have
    masks; these are painted, the first one on top (wsss.md, Sec. 0.3). ``image_ids`` are those of
    the set in its order, ``space`` the labels. Nothing but evaluation may open it.

    Raises:
        ValueError: a record with neither label image nor masks.
    """

    def __init__(self, name: str) -> None:
        metadata = MetadataCatalog.get(name)
        self.name = name
        self.space = LabelSpace.from_metadata(name, metadata)
        self._records = {str(r["image_id"]): r for r in DatasetCatalog.get(name)}
        self.image_ids = list(self._records)
        self._lut: np.ndarray | None = metadata.get("label_lut", None)
        for record in self._records.values():
            _check_has_truth(record, name)

    def __call__(self, image_id: str) -> np.ndarray:
        """The label map of one image.

        Raises:
            KeyError: an image without true labels. ValueError: a value that is no label; names
            the file.
        """
        if str(image_id) not in self._records:
            raise KeyError(f"image {image_id!r} has no true label map in {self.name!r}")
        record = self._records[str(image_id)]
        if "sem_seg_file_name" in record:
            return self._read(Path(record["sem_seg_file_name"]))
        return self._paint(record)

    def _read(self, path: Path) -> np.ndarray:
        if self._lut is None:
            return read_label_png(path, num_labels=self.space.num_labels)
        values = read_label_png(path)
        labels: np.ndarray = self._lut[values]
        wrong = (labels >= self.space.num_labels) & (labels != self.space.ignore)
        if wrong.any():
            raise ValueError(
                f"'{path}' holds {np.unique(values[wrong])[:5].tolist()}, values that stand for no "
                f"class of {self.name!r}"
            )
        return labels

    def _paint(self, record: Mapping[str, Any]) -> np.ndarray:
        objects = record["annotations"]
        labels = [self.space.to_label(int(row["category_id"])) for row in objects]
        size = (int(record["height"]), int(record["width"]))
        return paint_first_wins([row["segmentation"] for row in objects], labels, size)


def _check_has_truth(record: Mapping[str, Any], name: str) -> None:
    if "sem_seg_file_name" in record:
        return
    if not all(row.get("segmentation") for row in record.get("annotations", ({},))):
        raise ValueError(
            f"record of image {record['image_id']!r} of {name!r} has neither sem_seg_file_name nor "
            "annotations with masks, so its true labels are not known; name the set that has them "
            "in sem_seg_evaluation_name of the weak set's metadata (for a folder of label images: "
            "register_label_folder)"
        )
