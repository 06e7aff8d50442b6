"""Pseudo ground truth as a training set: a pseudo_gt.json joined with the images it is about."""

import logging
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from weaksam_d2.artifacts import PseudoGroundTruth, read_pseudo_gt, sha256_file
from weaksam_d2.data.datasets.registration import register, require_files, require_split

__all__ = ["register_pseudo_gt", "register_pseudo_gt_of"]

logger = logging.getLogger(__name__)


def register_pseudo_gt(name: str, *, json_file: str | Path, image_root: str | Path) -> None:
    """Register a pseudo ground truth file as a detection data set for retraining.

    File names of its ``images`` are relative to ``image_root``. Classes are its categories by
    rising id. Records hold ``annotations`` with boxes in XYXY absolute pixels.

    Raises:
        FileNotFoundError: the file or images are missing.
    """
    require_split(Path(json_file), "pseudo ground truth file")
    truth = read_pseudo_gt(Path(json_file))
    categories = sorted(truth.categories, key=lambda c: c["id"])
    mapping = {category["id"]: number for number, category in enumerate(categories)}
    root = Path(image_root)

    def load() -> list[dict[str, Any]]:
        names = [image["file_name"] for image in truth.images]
        require_files(f"'{json_file}' in '{root}'", [n for n in names if not (root / n).is_file()])
        images = [
            {
                "file_name": str(root / image["file_name"]),
                "image_id": str(image["id"]),
                "height": image["height"],
                "width": image["width"],
            }
            for image in truth.images
        ]
        return _join(images, truth, mapping)

    register(
        name,
        load,
        identity=("pseudo_gt", json_file, image_root, sha256_file(Path(json_file))),
        metadata=_metadata([c["name"] for c in categories], mapping, ""),
    )


def register_pseudo_gt_of(dataset_name: str, json_file: str | Path) -> str:
    """Register the pseudo ground truth of a registered data set; return the new set's name.

    The name is ``<dataset_name>_pseudo_gt_<first 8 digits of the file's SHA-256>``. Image files
    and classes come from the data set; nothing else of its records is used.

    Raises:
        ValueError: the file has other classes, or images that the data set has not.
    """
    require_split(Path(json_file), "pseudo ground truth file")
    digest = sha256_file(Path(json_file))
    name = f"{dataset_name}_pseudo_gt_{digest[:8]}"
    source = MetadataCatalog.get(dataset_name)
    truth = read_pseudo_gt(Path(json_file))

    def load() -> list[dict[str, Any]]:
        keys = ("file_name", "image_id", "height", "width")
        images = [{k: record[k] for k in keys} for record in DatasetCatalog.get(dataset_name)]
        return _join(_listed(images, truth, dataset_name, json_file), truth, mapping)

    DatasetCatalog.get(dataset_name)  # fills thing_classes of sets that set it when loaded
    classes = list(source.thing_classes)
    mapping = _match_categories(truth, classes, json_file, dataset_name)
    register(
        name,
        load,
        identity=("pseudo_gt_of", dataset_name, digest),
        metadata=_metadata(classes, mapping, source.get("evaluation_name", "")),
    )
    return name


def _metadata(classes: list[str], mapping: dict[int, int], evaluation_name: str) -> dict[str, Any]:
    return {
        "thing_classes": classes,
        "thing_dataset_id_to_contiguous_id": mapping,
        "evaluator_type": "none",
        "evaluation_name": evaluation_name,
        "difficult_in_labels": False,
    }


def _match_categories(
    truth: PseudoGroundTruth, classes: list[str], json_file: str | Path, dataset_name: str
) -> dict[int, int]:
    names = [category["name"] for category in truth.categories]
    if sorted(names) != sorted(classes):
        raise ValueError(
            f"'{json_file}' has the classes {names}, data set '{dataset_name}' has {classes}; "
            "the file belongs to another data set"
        )
    return {category["id"]: classes.index(category["name"]) for category in truth.categories}


def _listed(
    images: list[dict[str, Any]],
    truth: PseudoGroundTruth,
    dataset_name: str,
    json_file: str | Path,
) -> list[dict[str, Any]]:
    listed = {str(image["id"]) for image in truth.images}
    foreign = sorted(listed - {str(image["image_id"]) for image in images})
    if foreign:
        raise ValueError(
            f"'{json_file}' lists {len(foreign)} images that data set '{dataset_name}' has not, "
            f"for example {foreign[:3]}; the file belongs to another data set"
        )
    kept = [image for image in images if str(image["image_id"]) in listed]
    if len(kept) < len(images):
        logger.info(
            "'%s' is about %d of the %d images of '%s'; training uses these",
            json_file, len(kept), len(images), dataset_name,
        )  # fmt: skip
    return kept


def _join(
    images: list[dict[str, Any]], truth: PseudoGroundTruth, mapping: dict[int, int]
) -> list[dict[str, Any]]:
    by_image: dict[str, list[dict[str, Any]]] = {}
    for annotation in truth.annotations:
        x, y, width, height = annotation["bbox"]
        converted = {
            "bbox": [x, y, x + width, y + height],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": mapping[annotation["category_id"]],
            "iscrowd": 0,
        }
        for key in ("segmentation", "score", "score_norm"):
            if key in annotation:
                converted[key] = annotation[key]
        by_image.setdefault(str(annotation["image_id"]), []).append(converted)
    return [
        {
            **image,
            "image_id": str(image["image_id"]),
            "annotations": by_image.get(str(image["image_id"]), []),
        }
        for image in images
    ]
