"""Instance masks of VOC: true ones of PNG files, and ones derived from class masks and boxes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as coco_mask

from weaksam_d2.data.datasets.registration import class_index, register, require_split
from weaksam_d2.data.datasets.voc import VOC_CLASSES, image_files, load_voc_records, read_split

__all__ = [
    "DERIVED_TRUTH",
    "load_derived_instances",
    "load_voc_instances",
    "register_voc_masks",
]

DERIVED_TRUTH = "derived ground truth"
_VOID = 255
Record = dict[str, Any]


def register_voc_masks(
    name: str, *, root: str | Path, split: str, year: int, classes: Sequence[str] | None = None
) -> None:
    """Register the masks of a detection split for evaluation, derived from its class masks.

    Their name is "derived ground truth" wherever a figure made with them is shown; see
    :func:`load_derived_instances`. Arguments as ``register_voc_evaluation``.
    """
    names = tuple(classes or VOC_CLASSES)
    class_index(names)
    register(
        name,
        lambda: load_derived_instances(root, split, names),
        identity=("voc_derived_masks", root, split, year, names),
        metadata={**_metadata(root, split, year, names), "mask_truth": DERIVED_TRUTH},
    )


def _metadata(root: str | Path, split: str, year: int, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "thing_classes": list(names),
        "evaluator_type": "voc",
        "dirname": str(root),
        "split": split,
        "year": int(year),
        "difficult_in_labels": False,
    }


def load_voc_instances(
    root: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES
) -> list[Record]:
    """Read a segmentation split with instance masks (``segmentation``, compressed RLE).

    An object is the pixels of one value of ``SegmentationObject``; its class is the value that
    ``SegmentationClass`` has there (most often). The border (255) belongs to no object. Objects of
    classes that are not named are left out.

    Raises:
        FileNotFoundError: a list, image or PNG is missing. ValueError: an object without a class,
        PNGs of different sizes. Source: weaksam.md, Sec. 8.3.
    """
    root = Path(root)
    files, index = image_files(root / "JPEGImages"), class_index(classes)
    records = []
    for image_id in read_split(root / "ImageSets" / "Segmentation" / f"{split}.txt"):
        if image_id not in files:
            raise FileNotFoundError(f"image '{image_id}' of '{split}' is not in '{root}'")
        objects = _labels(root / "SegmentationObject" / f"{image_id}.png")
        kinds = _labels(root / "SegmentationClass" / f"{image_id}.png")
        if objects.shape != kinds.shape:
            raise ValueError(
                f"SegmentationObject of '{image_id}' is {objects.shape}, SegmentationClass "
                f"{kinds.shape} (height, width)"
            )
        annotations = []
        for number in np.unique(objects[(objects != 0) & (objects != _VOID)]):
            mask = objects == number
            category = _class_of(kinds[mask], f"object {number} of '{image_id}'")
            if category in index:
                annotations.append(_annotation(mask, index[category]))
        height, width = objects.shape
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


def load_derived_instances(
    root: str | Path, split: str, classes: Sequence[str] = VOC_CLASSES
) -> list[Record]:
    """Read a detection split with instance masks derived from class masks, for evaluation only.

    The mask of an object is its class mask inside its box, if the box meets no other box of its
    class and is not difficult. All other pixels of a class are one crowd region: what is detected
    there counts neither way. Images without a PNG in ``SegmentationClass`` are left out.

    Raises:
        FileNotFoundError: no image of the split has a class mask. ValueError: one of another size.
    """
    root = Path(root)
    records = []
    for record in load_voc_records(root, split, classes):
        path = root / "SegmentationClass" / f"{record['image_id']}.png"
        if not path.is_file():
            continue
        labels = _labels(path)
        if labels.shape != (record["height"], record["width"]):
            raise ValueError(
                f"'{path}' is {labels.shape}, its image {record['height']} x {record['width']} "
                "(height, width)"
            )
        annotations = []
        for category, class_name in enumerate(classes):
            mask = labels == VOC_CLASSES.index(class_name) + 1
            own = [row for row in record["annotations"] if row["category_id"] == category]
            annotations += _derive(mask, own, category)
        records.append({**record, "annotations": annotations})
    if not records:
        raise FileNotFoundError(f"no image of '{split}' has a class mask in '{root}'")
    return records


def _derive(mask: np.ndarray, objects: Sequence[Record], category: int) -> list[Record]:
    """Objects of one class with masks, then the rest of the class as a crowd region."""
    boxes = np.array([row["bbox"] for row in objects], np.float64).reshape(-1, 4)
    annotations, rest = [], mask.copy()
    for place, row in enumerate(objects):
        others = np.delete(boxes, place, axis=0)
        x1, y1, x2, y2 = boxes[place]
        meets = (
            (others[:, 0] < x2) & (others[:, 2] > x1) & (others[:, 1] < y2) & (others[:, 3] > y1)
        )
        own = np.zeros_like(mask)
        window = (slice(int(y1), int(np.ceil(y2))), slice(int(x1), int(np.ceil(x2))))
        own[window] = mask[window]
        if meets.any() or row["difficult"] or not own.any():
            continue
        annotations.append({**_annotation(own, category), "bbox": row["bbox"]})
        rest &= ~own
    if rest.any():
        annotations.append({**_annotation(rest, category), "iscrowd": 1})
    return annotations


def _annotation(mask: np.ndarray, category: int) -> Record:
    """An object with its mask and the tight box of it, XYXY half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": [float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "iscrowd": 0,
        "difficult": 0,
        "segmentation": {
            "size": [int(side) for side in code["size"]],
            "counts": code["counts"].decode("ascii"),
        },
    }


def _class_of(values: np.ndarray, what: str) -> str:
    found, counts = np.unique(values, return_counts=True)
    inside = (found >= 1) & (found <= len(VOC_CLASSES))
    if not inside.any():
        raise ValueError(f"{what} has the class values {found.tolist()}, expected one of 1 … 20")
    return VOC_CLASSES[int(found[inside][counts[inside].argmax()]) - 1]


def _labels(path: Path) -> np.ndarray:
    require_split(path, "mask")
    with Image.open(path) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"'{path}' has mode {image.mode}, expected a palette or 8-bit PNG")
        return np.array(image)
