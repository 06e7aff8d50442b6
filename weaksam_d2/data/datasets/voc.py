"""PASCAL VOC layout: own reader for splits and XML, weak sets and their annotated twins."""

import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from weaksam_d2.data.datasets.registration import (
    class_index,
    register,
    require_files,
    require_split,
)
from weaksam_d2.data.image_labels import to_weak_record
from weaksam_d2.data.images import image_size

__all__ = [
    "VOC_CLASSES",
    "image_files",
    "load_voc_records",
    "read_split",
    "register_voc_evaluation",
    "register_voc_weak",
]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"),
    *("cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def register_voc_weak(
    name: str,
    *,
    root: str | Path,
    split: str,
    year: int,
    classes: Sequence[str] | None = None,
    difficult_in_labels: bool = False,
    evaluation_name: str = "",
) -> None:
    """Register a VOC split as image-level labels only.

    Args:
        root: folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``.
        split: name of a file of ``ImageSets/Main``, without ``.txt``.
        year: chooses the default of the VOC metric, nothing else.
        classes: classes that count, in this order; objects of others are ignored. None: VOC's 20.
        difficult_in_labels: whether an image with only difficult objects of a class has its tag.
        evaluation_name: the annotated twin.
    """
    names = tuple(classes or VOC_CLASSES)
    class_index(names)

    def load() -> list[dict[str, Any]]:
        records = load_voc_records(root, split, names)
        return [to_weak_record(r, difficult_in_labels=difficult_in_labels) for r in records]

    metadata = _metadata(root, split, year, names)
    metadata.update(evaluation_name=evaluation_name, difficult_in_labels=difficult_in_labels)
    identity = ("voc_weak", root, split, year, names, difficult_in_labels, evaluation_name)
    register(name, load, identity=identity, metadata=metadata)


def register_voc_evaluation(
    name: str,
    *,
    root: str | Path,
    split: str,
    year: int,
    classes: Sequence[str] | None = None,
) -> None:
    """Register a VOC split with its boxes (arguments as in :func:`register_voc_weak`)."""
    names = tuple(classes or VOC_CLASSES)
    class_index(names)
    metadata = _metadata(root, split, year, names)
    metadata.update(evaluation_name=name, difficult_in_labels=False)
    register(
        name,
        lambda: load_voc_records(root, split, names),
        identity=("voc_evaluation", root, split, year, names),
        metadata=metadata,
    )


def _metadata(root: str | Path, split: str, year: int, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "thing_classes": list(names),
        "evaluator_type": "voc",
        "dirname": str(root),
        "split": split,
        "year": int(year),
    }


def read_split(path: str | Path) -> list[str]:
    """Read the image ids of a split file, in its order.

    A line is an id, or an id and a flag (class splits ``cat_train.txt``): then only ids with
    flag 1 belong (-1: the class is absent; 0: only difficult objects).

    Raises:
        FileNotFoundError: no such file. ValueError: a malformed line, a repeated id, no id.
    """
    path = Path(path)
    require_split(path, "split file")
    ids: list[str] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) > 2 or (len(fields) == 2 and fields[1] not in ("1", "0", "-1")):
            raise ValueError(f"{path}:{number}: '{line}': expected 'id' or 'id 1', 'id -1'")
        if len(fields) == 1 or fields[1] == "1":
            ids.append(fields[0])
    if len(set(ids)) != len(ids):
        repeated = [i for i, n in Counter(ids).items() if n > 1][:3]
        raise ValueError(f"{path}: image ids occur twice, for example {repeated}")
    if not ids:
        raise ValueError(f"{path}: the split is empty")
    return ids


def load_voc_records(
    root: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES
) -> list[dict[str, Any]]:
    """Read a split with boxes, in detectron2's record format.

    Boxes are XYXY absolute, half-open: ``[xmin - 1, ymin - 1, xmax, ymax]``. Missing ``difficult``
    counts as 0. Objects of classes that are not named are left out.

    Raises:
        FileNotFoundError: split, XML or image files are missing (first three are named).
        ValueError: malformed XML; the message names the file.
    """
    root = Path(root)
    ids = read_split(root / "ImageSets" / "Main" / f"{split}.txt")
    files = image_files(root / "JPEGImages")
    require_files(f"split '{split}' in '{root}'", [i for i in ids if i not in files])
    index = class_index(classes)
    records = []
    for image_id in ids:
        xml = root / "Annotations" / f"{image_id}.xml"
        height_width, annotations = _read_xml(xml, index)
        height, width = height_width or image_size(files[image_id])
        records.append(
            {
                "file_name": files[image_id],
                "image_id": image_id,
                "height": height,
                "width": width,
                "annotations": annotations,
            }
        )
    return records


def image_files(folder: Path) -> dict[str, str]:
    """Path of each image of a folder by its stem.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"image folder '{folder}' does not exist")
    names = sorted(e.name for e in os.scandir(folder) if e.name.endswith(_IMAGE_SUFFIXES))
    # Reversed, so that .jpg wins over .png of the same stem.
    return {Path(name).stem: str(folder / name) for name in reversed(names)}


def _read_xml(
    path: Path, index: dict[str, int]
) -> tuple[tuple[int, int] | None, list[dict[str, Any]]]:
    require_split(path, "annotation file")
    try:
        root = ElementTree.parse(path).getroot()
        annotations = [
            _annotation(element, index[name])
            for element in root.iter("object")
            if (name := (element.findtext("name") or "").strip()) in index
        ]
        height, width = (int(float(root.findtext(f"size/{k}") or 0)) for k in ("height", "width"))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"annotation file '{path}' is malformed: {error}") from error
    return (height, width) if height > 0 and width > 0 else None, annotations


def _annotation(element: ElementTree.Element, category: int) -> dict[str, Any]:
    corners = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
    # Some tools write fractions, so float first.
    box = np.array([float(c) if c else np.nan for c in corners]) - (1.0, 1.0, 0.0, 0.0)
    if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError(f"box {corners} (xmin, ymin, xmax, ymax) is missing a side or has no area")
    return {
        "bbox": box.tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "iscrowd": 0,
        "difficult": int(element.findtext("difficult") or 0),
    }
