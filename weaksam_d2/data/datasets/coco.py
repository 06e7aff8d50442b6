"""COCO JSON: weak sets and their annotated twins, with classes by name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from weaksam_d2.artifacts import read_json
from weaksam_d2.data.datasets.registration import (
    class_index,
    register,
    require_files,
    require_split,
)
from weaksam_d2.data.image_labels import to_weak_record

__all__ = ["load_coco_records", "register_coco_evaluation", "register_coco_weak"]


def register_coco_weak(
    name: str,
    *,
    json_file: str | Path,
    image_root: str | Path,
    classes: Sequence[str] | None = None,
    evaluation_name: str = "",
    categories: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Register a COCO JSON as image-level labels only.

    Args:
        classes: category names that count, in this order; None: all, by rising category id.
        evaluation_name: the annotated twin.
        categories: the JSON's ``categories``, if known; else the file is read now for them.
    """
    metadata = _metadata(json_file, image_root, classes, categories)
    metadata.update(evaluation_name=evaluation_name, evaluator_type="coco")
    if evaluation_name:
        metadata["sem_seg_evaluation_name"] = evaluation_name  # painted from its masks
    del metadata["json_file"]  # the annotations: no weak path opens them
    mapping = metadata["thing_dataset_id_to_contiguous_id"]

    def load() -> list[dict[str, Any]]:
        return [to_weak_record(r) for r in load_coco_records(json_file, image_root, mapping)]

    identity = ("coco_weak", json_file, image_root, sorted(mapping.items()), evaluation_name)
    register(name, load, identity=identity, metadata=metadata)


def register_coco_evaluation(
    name: str,
    *,
    json_file: str | Path,
    image_root: str | Path,
    classes: Sequence[str] | None = None,
    categories: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Register a COCO JSON with its boxes and masks (arguments: :func:`register_coco_weak`)."""
    metadata = _metadata(json_file, image_root, classes, categories)
    metadata.update(evaluation_name=name, evaluator_type="coco", sem_seg_evaluation_name=name)
    mapping = metadata["thing_dataset_id_to_contiguous_id"]
    register(
        name,
        lambda: load_coco_records(json_file, image_root, mapping),
        identity=("coco_evaluation", json_file, image_root, sorted(mapping.items())),
        metadata=metadata,
    )


def _metadata(
    json_file: str | Path,
    image_root: str | Path,
    classes: Sequence[str] | None,
    categories: Sequence[dict[str, Any]] | None,
) -> dict[str, Any]:
    if categories is None:
        require_split(Path(json_file), "COCO file")
        categories = read_json(Path(json_file))["categories"]
    by_name = {c["name"]: c["id"] for c in sorted(categories, key=lambda c: c["id"])}
    names = tuple(classes or by_name)
    unknown = [n for n in names if n not in by_name]
    if unknown:
        raise ValueError(f"classes {unknown} are not in '{json_file}'; it has {sorted(by_name)}")
    return {
        "thing_classes": list(names),
        "thing_dataset_id_to_contiguous_id": {
            by_name[n]: number for n, number in class_index(names).items()
        },
        "difficult_in_labels": False,
        "json_file": str(json_file),
        "image_root": str(image_root),
    }


def load_coco_records(
    json_file: str | Path, image_root: str | Path, id_to_class: dict[int, int]
) -> list[dict[str, Any]]:
    """Read a COCO JSON in detectron2's record format, images in the order of the file.

    Boxes become XYXY absolute; annotations of other categories, and boxes without area, are left
    out. Image ids become ``str``.

    Raises:
        FileNotFoundError: the JSON or image files are missing (first three are named).
    """
    require_split(Path(json_file), "COCO file")
    data = read_json(Path(json_file))
    annotations: dict[str, list[dict[str, Any]]] = {}
    for annotation in data["annotations"]:
        if annotation["category_id"] in id_to_class and min(annotation["bbox"][2:]) > 0:
            converted = _annotation(annotation, id_to_class)
            annotations.setdefault(str(annotation["image_id"]), []).append(converted)
    root = Path(image_root)
    missing = [i["file_name"] for i in data["images"] if not (root / i["file_name"]).is_file()]
    require_files(f"'{json_file}' in '{root}'", missing)
    return [
        {
            "file_name": str(root / image["file_name"]),
            "image_id": str(image["id"]),
            "height": image["height"],
            "width": image["width"],
            "annotations": annotations.get(str(image["id"]), []),
        }
        for image in data["images"]
    ]


def _annotation(annotation: dict[str, Any], id_to_class: dict[int, int]) -> dict[str, Any]:
    x, y, width, height = annotation["bbox"]
    converted = {
        "bbox": [x, y, x + width, y + height],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": id_to_class[annotation["category_id"]],
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "difficult": int(annotation.get("difficult", 0)),
    }
    if annotation.get("segmentation"):
        converted["segmentation"] = annotation["segmentation"]
    return converted
