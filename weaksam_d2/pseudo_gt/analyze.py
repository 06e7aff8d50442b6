"""How good pseudo ground truth is; reads true boxes and is for analysis only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from weaksam_d2.artifacts import PseudoGroundTruth
from weaksam_d2.ops.matching import iou_matrix, one2one_recall_iou

__all__ = ["analyze_pseudo_gt"]


def analyze_pseudo_gt(
    pgt: PseudoGroundTruth, evaluation_records: Sequence[Mapping[str, Any]], *, iou: float = 0.5
) -> dict[str, Any]:
    """Compare pseudo boxes with true boxes of the same class, one to one, best IoU first.

    Args:
        pgt: its categories are in contiguous order.
        evaluation_records: records with ``annotations`` (and optional ``difficult``) of the same
            images; never used in training.
        iou: a pair counts from this IoU on.

    Returns:
        ``precision`` (share of pseudo boxes with a true one, difficult or not), ``recall`` (share
        of true boxes that are not difficult), both in percent and NaN if there is nothing to
        count, ``boxes_per_image``, ``iou`` and ``per_class`` ({name: the same three}).

    Raises:
        ValueError: if an image of the pseudo ground truth has no evaluation record.
    """
    classes = [category["id"] for category in pgt.categories]
    truth = {str(record["image_id"]): record for record in evaluation_records}
    missing = [str(image["id"]) for image in pgt.images if str(image["id"]) not in truth]
    if missing:
        raise ValueError(
            f"{len(missing)} images have no evaluation record, such as {missing[:3]}; "
            "name the annotated twin of the training split"
        )
    pseudo: dict[tuple[str, int], list[list[float]]] = {}
    for annotation in pgt.annotations:
        key = (str(annotation["image_id"]), classes.index(annotation["category_id"]))
        x, y, w, h = annotation["bbox"]
        pseudo.setdefault(key, []).append([x, y, x + w, y + h])
    # columns: pseudo boxes, correct ones, true boxes, found ones
    counts = np.zeros((len(classes), 4))
    for image in pgt.images:
        for label in range(len(classes)):
            boxes = pseudo.get((str(image["id"]), label), [])
            counts[label] += _compare(boxes, truth[str(image["id"])], label, iou)
    images = len(pgt.images)
    per_class = {
        category["name"]: _shares(row, images)
        for category, row in zip(pgt.categories, counts, strict=True)
    }
    return {**_shares(counts.sum(axis=0), images), "iou": iou, "per_class": per_class}


def _compare(
    boxes: list[list[float]], record: Mapping[str, Any], label: int, iou: float
) -> tuple[int, int, int, int]:
    objects = [a for a in record["annotations"] if a["category_id"] == label]
    easy = np.array([not a.get("difficult", 0) for a in objects], dtype=bool)
    true = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    found = one2one_recall_iou(iou_matrix(true, boxes)) >= iou
    return len(boxes), int(found.sum()), int(easy.sum()), int((found & easy).sum())


def _shares(row: np.ndarray, images: int) -> dict[str, float]:
    boxes, correct, objects, found = (float(value) for value in row)
    return {
        "precision": 100 * correct / boxes if boxes else float("nan"),
        "recall": 100 * found / objects if objects else float("nan"),
        "boxes_per_image": boxes / images if images else float("nan"),
    }
