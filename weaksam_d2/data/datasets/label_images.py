"""True label images, for evaluation only: VOC's class masks, and folders of a user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.data.datasets.registration import class_index, register
from weaksam_d2.data.datasets.voc import VOC_CLASSES, image_files, read_split
from weaksam_d2.data.images import image_size

__all__ = ["register_label_folder", "register_voc_labels", "voc_label_lut"]

_NO_LABEL = 255
_UNKNOWN = 254  # in a lookup table: a value of the files that stands for nothing


def voc_label_lut(classes: Sequence[str] | None = None) -> np.ndarray:
    """Label of each value of VOC's class masks: uint8 (256,), class + 1 in order of ``classes``.

    Classes that are not named are background, 255 stays, values that VOC does not use become 254.

    Raises:
        ValueError: no class of VOC.
    """
    names = tuple(classes or VOC_CLASSES)
    index = class_index(names)
    unknown = [name for name in names if name not in VOC_CLASSES]
    if unknown:
        raise ValueError(f"classes {unknown} have no value in VOC's class masks: {VOC_CLASSES}")
    lut = np.full(256, _UNKNOWN, np.uint8)
    lut[0], lut[_NO_LABEL] = 0, _NO_LABEL
    for value, name in enumerate(VOC_CLASSES, start=1):
        lut[value] = index[name] + 1 if name in index else 0
    return lut


def register_voc_labels(
    name: str,
    *,
    root: str | Path,
    split: str,
    year: int,
    classes: Sequence[str] | None = None,
    split_folder: str = "Main",
    mask_folder: str = "SegmentationClass",
) -> None:
    """Register the class masks of a split as true label images (``sem_seg_file_name``).

    Images without one are left out. A weak set names this set in ``sem_seg_evaluation_name``.

    Args:
        root, split, year, classes: as ``register_voc_weak``; classes must be VOC's.
        split_folder: the split is a file of ``ImageSets/<split_folder>``.
        mask_folder: holds ``<id>.png``, palette or gray, with VOC's values.
    """
    names = tuple(classes or VOC_CLASSES)
    lut = voc_label_lut(names)

    def load() -> list[dict[str, Any]]:
        ids = read_split(Path(root) / "ImageSets" / split_folder / f"{split}.txt")
        files = image_files(Path(root) / "JPEGImages")
        images = [(image_id, files[image_id]) for image_id in ids if image_id in files]
        return _records(images, Path(root) / mask_folder, f"split '{split}'")

    register(
        name,
        load,
        identity=("voc_labels", root, split, year, names, split_folder, mask_folder),
        metadata={
            "thing_classes": list(names),
            "evaluator_type": "none",
            "evaluation_name": "",
            "sem_seg_evaluation_name": name,
            "label_lut": lut,
            "dirname": str(root),
            "split": split,
            "year": int(year),
        },
    )


def register_label_folder(name: str, *, weak_name: str, folder: str | Path) -> None:
    """Register a folder of label images as the truth of a weak set that is already registered.

    Args:
        name: of the set of true labels; ``sem_seg_evaluation_name`` of the weak set becomes it.
        weak_name: for example of ``register_tagged_folder``.
        folder: ``<image id>.png``, 8-bit, palette or gray: 0 background, 1 the first of the weak
            set's ``thing_classes`` and so on, 255 no label. Images without one are left out.

    Raises:
        KeyError: the weak set is not registered. ValueError: it has true labels already.
    """
    if weak_name not in DatasetCatalog.list():
        raise KeyError(f"data set '{weak_name}' is not registered; register it before its labels")
    metadata = MetadataCatalog.get(weak_name)
    if metadata.get("sem_seg_evaluation_name", name) != name:
        raise ValueError(
            f"the true labels of '{weak_name}' are those of '{metadata.sem_seg_evaluation_name}'; "
            "a data set has one truth"
        )
    names = list(metadata.thing_classes)
    lut = np.full(256, _UNKNOWN, np.uint8)
    lut[: len(names) + 1] = np.arange(len(names) + 1)
    lut[_NO_LABEL] = _NO_LABEL

    def load() -> list[dict[str, Any]]:
        images = [(str(r["image_id"]), r["file_name"]) for r in DatasetCatalog.get(weak_name)]
        return _records(images, Path(folder), f"'{weak_name}'")

    register(
        name,
        load,
        identity=("label_folder", weak_name, folder, names),
        metadata={
            "thing_classes": names,
            "evaluator_type": "none",
            "evaluation_name": "",
            "sem_seg_evaluation_name": name,
            "label_lut": lut,
        },
    )
    metadata.set(sem_seg_evaluation_name=name)


def _records(images: Sequence[tuple[str, str]], folder: Path, what: str) -> list[dict[str, Any]]:
    records = []
    for image_id, file_name in images:
        path = folder / f"{image_id}.png"
        if path.is_file():
            height, width = image_size(file_name)
            records.append(
                {
                    "file_name": file_name,
                    "image_id": image_id,
                    "height": height,
                    "width": width,
                    "sem_seg_file_name": str(path),
                }
            )
    if not records:
        raise FileNotFoundError(f"no image of {what} has a label image '<id>.png' in '{folder}'")
    return records
