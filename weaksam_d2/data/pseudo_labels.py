"""Label images as a training set: a folder of them joined with the images of a weak set."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import ForeignLabels, LabelSpace, SemSegLabels, open_label_folder
from weaksam_d2.data.datasets.registration import register

__all__ = ["label_records", "pseudo_label_sets", "register_pseudo_labels_of"]

logger = logging.getLogger(__name__)

_KEYS = ("file_name", "image_id", "height", "width")
Records = list[dict[str, Any]]


def register_pseudo_labels_of(dataset_name: str, folder: str | Path) -> str:
    """Register a folder of label images of a registered data set; return the new set's name.

    The name is ``<dataset_name>_pseudo_labels_<8 digits of the folder's path>``. Images and
    classes come from the data set, nothing else of its records is used. Records have
    ``sem_seg_file_name``; images without any label (all 255) are left out, their number is in the
    log. A folder without ``labels.json`` holds ``<image id>.png`` with the ids of our labels.

    Raises:
        ValueError: other classes; images without a label image, or of another size.
    """
    path = Path(folder).absolute()
    DatasetCatalog.get(dataset_name)  # fills thing_classes of sets that set it when loaded
    source = MetadataCatalog.get(dataset_name)
    space = LabelSpace.from_metadata(dataset_name, source)
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"{dataset_name}_pseudo_labels_{digest}"
    register(
        name,
        lambda: _join(dataset_name, open_label_folder(path, space)),
        identity=("pseudo_labels_of", dataset_name, path),
        metadata={
            "thing_classes": list(source.thing_classes),
            "stuff_classes": list(space.classes),
            "ignore_label": space.ignore,
            "evaluator_type": "none",
            "difficult_in_labels": False,
        },
    )
    return name


def pseudo_label_sets(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Names of the sets that join ``names`` with their folders, one for each.

    Raises:
        ValueError: another number of folders; as :func:`register_pseudo_labels_of`.
    """
    if len(folders) != len(names):
        raise ValueError(
            f"DATASETS.PSEUDO_LABELS_TRAIN has {len(folders)} folders for the {len(names)} sets of "
            f"DATASETS.TRAIN {tuple(names)}; give one for each"
        )
    return [register_pseudo_labels_of(n, f) for n, f in zip(names, folders, strict=True)]


def label_records(names: Sequence[str]) -> Records:
    """Records of sets with label images; ``sem_seg_lut`` holds ``label_lut`` of their metadata.

    Raises:
        KeyError: not registered. ValueError: a set without label images, or nothing to train on.
    """
    records = [record for name in names for record in _labeled(name)]
    if not records:
        raise ValueError(
            f"there is nothing to train on in {list(names)}: no image has a label other than 255; "
            "look at the label images, and at what made them"
        )
    return records


def _labeled(name: str) -> Records:
    if name not in DatasetCatalog.list():
        raise KeyError(f"data set '{name}' is not registered")
    records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
    if records and "sem_seg_file_name" not in records[0]:
        twin = metadata.get("sem_seg_evaluation_name", "")
        truth = f" (with true labels: '{twin}')" if twin else ""
        raise ValueError(
            f"data set '{name}' has no label images, which INPUT.MAPPER_NAME SemSegMapper needs; "
            f"give a folder of them in DATASETS.PSEUDO_LABELS_TRAIN{truth}"
        )
    kept = (*_KEYS, "sem_seg_file_name")
    lut = metadata.get("label_lut", None)
    extra = {} if lut is None else {"sem_seg_lut": np.asarray(lut, dtype=np.uint8).tobytes()}
    return [{**{key: record[key] for key in kept}, **extra} for record in records]


def _join(dataset_name: str, labels: SemSegLabels | ForeignLabels) -> Records:
    images = [{key: r[key] for key in _KEYS} for r in DatasetCatalog.get(dataset_name)]
    missing = [str(i["image_id"]) for i in images if str(i["image_id"]) not in labels]
    if missing:
        raise ValueError(
            f"'{labels.folder}' has no label image for {len(missing)} of the {len(images)} images "
            f"of data set '{dataset_name}', for example {missing[:3]}; make them, or train on a "
            f"part of the set ('{dataset_name}@<number of images>')"
        )
    records, empty = [], 0
    for image in images:
        image_id = str(image["image_id"])
        entry = labels.entry(image_id)
        size = (int(image["height"]), int(image["width"]))
        if tuple(entry["size"]) != size:
            raise ValueError(
                f"label image '{labels.path(image_id)}' has size {tuple(entry['size'])} (height, "
                f"width), image '{image_id}' of data set '{dataset_name}' {size}"
            )
        if set(entry["pixels"]) <= {str(labels.space.ignore)}:
            empty += 1
            continue
        found = {"image_id": image_id, "sem_seg_file_name": str(labels.path(image_id))}
        records.append({**image, **found})
    if empty:
        logger.info(
            "%d of the %d images of '%s' have no labeled pixel in '%s' and are left out",
            *(empty, len(images), dataset_name, labels.folder),
        )
    return records
