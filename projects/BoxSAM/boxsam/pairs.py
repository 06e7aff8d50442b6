"""Lists of (image, class) pairs, such as Open Images, as weak data sets for the tagger."""

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.data.datasets.registration import register
from weaksam_d2.data.datasets.voc import VOC_CLASSES
from weaksam_d2.data.images import image_size

from .names import match_names

__all__ = ["load_class_pairs", "read_class_pairs", "register_class_pairs"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


def register_class_pairs(
    name: str, *, root: str | Path, pairs: str | Path = "", classes: Sequence[str] | None = None
) -> None:
    """Register (image, class) pairs as a weak data set; nothing is opened before it is loaded.

    Args:
        root: folder of the images; with ``pairs`` "" it has one folder for each class name.
        pairs: CSV with lines ``image,class``, or JSON: a list of such pairs.
        classes: of the data set to be labeled, default those of VOC. Names of the list that
            differ are those of ``boxsam/names.py``.
    """
    names = tuple(classes or VOC_CLASSES)
    register(
        name,
        lambda: load_class_pairs(root, pairs, names),
        identity=("class_pairs", root, pairs, names),
        metadata={
            "thing_classes": list(names),
            "evaluator_type": "none",
            "evaluation_name": "",
            "difficult_in_labels": False,
        },
    )


def load_class_pairs(
    root: str | Path, pairs: str | Path, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Weak records with the class of each image; an image of several pairs has several.

    Raises:
        FileNotFoundError: no such folder, list or image. ValueError: a malformed list, no pair,
        or a name that is no class.
    """
    found = read_class_pairs(root, pairs)
    index = match_names([name for _, name in found], classes)
    labels: dict[str, set[int]] = {}
    for file, name in found:
        labels.setdefault(file, set()).add(index[name])
    records = []
    for file, present in labels.items():
        path = Path(root) / file
        height, width = image_size(path)
        records.append(
            {
                "file_name": str(path),
                "image_id": file,
                "height": height,
                "width": width,
                "image_labels": sorted(present),
            }
        )
    return records


def read_class_pairs(root: str | Path, pairs: str | Path = "") -> list[tuple[str, str]]:
    """(image file relative to ``root``, class name) pairs, as they are written.

    Raises:
        FileNotFoundError: no such folder or list. ValueError: a malformed list, or no pair.
    """
    root = Path(root)
    if not pairs:
        if not root.is_dir():
            raise FileNotFoundError(f"folder '{root}' with a folder for each class does not exist")
        found = [
            (path.relative_to(root).as_posix(), path.parent.name)
            for path in sorted(root.glob("*/*"))
            if path.suffix in _SUFFIXES
        ]
    else:
        found = _read_list(Path(pairs))
    if not found:
        raise ValueError(f"'{pairs or root}' holds no (image, class) pair")
    return found


def _read_list(path: Path) -> list[tuple[str, str]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text) if path.suffix.lower() == ".json" else _csv_rows(text)
    except ValueError as error:
        raise ValueError(f"list of pairs '{path}' is malformed: {error}") from error
    for number, row in enumerate(rows, start=1):
        pair = isinstance(row, list) and len(row) == 2
        if not pair or not all(isinstance(value, str) and value.strip() for value in row):
            raise ValueError(f"'{path}', entry {number}: {row!r} is no (image, class) pair")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def _csv_rows(text: str) -> list[list[str]]:
    rows = [row for row in csv.reader(text.splitlines()) if any(f.strip() for f in row)]
    return rows[1:] if rows and [f.strip().lower() for f in rows[0]] == ["image", "class"] else rows


def _register_builtin(root: Path) -> None:
    """Known by name, under ``$DETECTRON2_DATASETS``; a folder of images for each class."""
    register_class_pairs("open_images_voc_pairs", root=root / "open_images_voc")


_register_builtin(Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))))
