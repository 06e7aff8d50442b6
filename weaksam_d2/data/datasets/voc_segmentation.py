"""Segmentation splits of VOC: weak sets whose tags no mask decides, and their annotated twins."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.data.datasets.label_images import register_voc_labels
from weaksam_d2.data.datasets.registration import (
    class_index,
    register,
    require_files,
    require_split,
)
from weaksam_d2.data.datasets.voc import VOC_CLASSES, image_files, read_split
from weaksam_d2.data.datasets.voc_masks import load_voc_instances
from weaksam_d2.data.images import image_size

__all__ = ["load_voc_tags", "register_voc_segmentation"]


def register_voc_segmentation(
    name: str,
    *,
    root: str | Path,
    split: str,
    year: int,
    classes: Sequence[str] | None = None,
    instances: bool = True,
    mask_folder: str = "SegmentationClass",
) -> None:
    """Register a segmentation split of VOC as ``<name>_weak``, ``<name>_labels``, ``<name>_eval``.

    Args:
        root: folder with ``JPEGImages``, ``Annotations`` and the folders of true masks.
        split: name of a file of ``ImageSets/Segmentation``, without ``.txt``.
        year, classes: as ``register_voc_weak``.
        instances: whether there is ``SegmentationObject``; without it no ``<name>_eval``.
        mask_folder: class masks of ``<name>_labels``, read by evaluation alone.

    Tags of an image are the class names of all objects in its XML file, difficult ones too
    (wsss.md, Sec. 0.3). Objects of ``<name>_eval`` have true masks and the tight boxes of these.
    """
    names = tuple(classes or VOC_CLASSES)
    class_index(names)
    twin = f"{name}_eval" if instances else ""
    common = {
        "thing_classes": list(names),
        "evaluator_type": "voc" if instances else "none",
        "evaluation_name": twin,
        "sem_seg_evaluation_name": f"{name}_labels",
        "dirname": str(root),
        "split": split,
        "year": int(year),
    }
    if instances:
        common["mask_evaluation_name"] = twin
        register(
            twin,
            lambda: load_voc_instances(root, split, names),
            identity=("voc_segmentation", root, split, year, names),
            metadata={**common, "difficult_in_labels": False},
        )
    register(
        f"{name}_weak",
        lambda: load_voc_tags(root, split, names),
        identity=("voc_segmentation_weak", root, split, year, names),
        metadata={**common, "difficult_in_labels": True},
    )
    register_voc_labels(
        f"{name}_labels",
        root=root,
        split=split,
        year=year,
        classes=names,
        split_folder="Segmentation",
        mask_folder=mask_folder,
    )


def load_voc_tags(
    root: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES
) -> list[dict[str, Any]]:
    """Weak records of a segmentation split: from XML files only names are read, from PNGs nothing.

    Raises:
        FileNotFoundError: split, XML or image files are missing (first three are named).
        ValueError: malformed XML; the message names the file.
    """
    root = Path(root)
    ids = read_split(root / "ImageSets" / "Segmentation" / f"{split}.txt")
    files, index = image_files(root / "JPEGImages"), class_index(classes)
    require_files(f"split '{split}' in '{root}'", [i for i in ids if i not in files])
    records = []
    for image_id in ids:
        found = _object_names(root / "Annotations" / f"{image_id}.xml")
        height, width = image_size(files[image_id])
        records.append(
            {
                "file_name": files[image_id],
                "image_id": image_id,
                "height": height,
                "width": width,
                "image_labels": sorted({index[one] for one in found if one in index}),
            }
        )
    return records


def _object_names(path: Path) -> list[str]:
    require_split(path, "annotation file")
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation file '{path}' is malformed: {error}") from error
    return [(element.findtext("name") or "").strip() for element in root.iter("object")]
