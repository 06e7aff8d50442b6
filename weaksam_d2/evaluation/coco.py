"""COCO average precision of boxes, from records in memory."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections, GroundTruth

__all__ = ["CocoBoxEvaluator", "compute_coco_ap"]

logger = logging.getLogger(__name__)

# Positions in COCOeval.stats of its bounding box summary.
_METRICS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5}


class _DifficultIgnored(COCOeval):
    """COCOeval in which an object may be ignored without being a crowd."""

    def _prepare(self) -> None:
        super()._prepare()
        # The parent derives "ignore" from iscrowd alone, which would also change the overlap.
        for objects in self._gts.values():
            for entry in objects:
                entry["ignore"] = bool(entry["ignore"] or entry["difficult"])


def compute_coco_ap(
    truth: Sequence[GroundTruth], detections: Sequence[Detections], *, num_classes: int
) -> dict[str, Any]:
    """COCO box AP in percent, at most 100 detections for each image.

    Both sequences hold one entry for each image. Difficult objects are ignored: neither missed
    nor false positives. Gives AP, AP50, AP75, APs, APm, APl and ``per_class`` (C,), NaN where
    nothing could be measured.
    """
    ground_truth = _coco_dataset(truth, num_classes)
    results = [
        {
            "image_id": number,
            "category_id": int(cls) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for number, one in enumerate(detections, start=1)
        for (x1, y1, x2, y2), score, cls in zip(
            one.boxes.astype(np.float64), one.scores, one.classes, strict=True
        )
    ]
    if not results:
        return _without_detections(truth, num_classes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _DifficultIgnored(ground_truth, ground_truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [100 * value if value >= 0 else float("nan") for value in evaluation.stats]
    # (IoU thresholds, recalls, classes, areas, detection limits): all areas, 100 detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = [
        100 * float(valid.mean()) if (valid := one[one >= 0]).size else float("nan")
        for one in np.moveaxis(precision, 2, 0)
    ]
    figures: dict[str, Any] = {name: stats[place] for name, place in _METRICS.items()}
    figures["per_class"] = np.array(per_class)
    return figures


def _coco_dataset(truth: Sequence[GroundTruth], num_classes: int) -> COCO:
    """Build a COCO object in memory; images, classes and objects are numbered from 1."""
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(truth, start=1):
        sides = one.boxes[:, 2:].astype(np.float64) - one.boxes[:, :2]
        for row, (width, height) in enumerate(sides.tolist()):
            x, y = one.boxes[row, :2].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(one.classes[row]) + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(one.crowd[row]),
                    "difficult": bool(one.difficult[row]),
                }
            )
    dataset = COCO()
    dataset.dataset = {
        "info": {},
        "images": [{"id": number + 1} for number in range(len(truth))],
        "categories": [{"id": cls + 1, "name": str(cls)} for cls in range(num_classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        dataset.createIndex()
    return dataset


def _without_detections(truth: Sequence[GroundTruth], num_classes: int) -> dict[str, Any]:
    """COCO's loader refuses an empty list; every class with an object then has AP 0."""
    per_class = np.full(num_classes, np.nan)
    for one in truth:
        per_class[one.classes[~(one.difficult | one.crowd)]] = 0.0
    value = float("nan") if np.isnan(per_class).all() else 0.0
    figures: dict[str, Any] = dict.fromkeys(("AP", "AP50", "AP75"), value)
    figures |= dict.fromkeys(("APs", "APm", "APl"), float("nan"))
    figures["per_class"] = per_class
    return figures


class CocoBoxEvaluator(DetectionEvaluator):
    """COCO box AP on the records of any annotated data set.

    detectron2's own evaluator wants a JSON file, compares ids by type and may read ground truth
    of another run from its cache; here records in memory are the only source. ``task`` is the
    name under which the figures are given.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        task: str = "bbox",
        distributed: bool = True,
    ) -> None:
        super().__init__(records, class_names, distributed=distributed)
        self._task = task
        self._truth = [GroundTruth.from_record(r, num_classes=len(class_names)) for r in records]

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """AP, AP50, AP75, APs, APm, APl and ``AP-<class>``."""
        rows = [detections[image_id] for image_id in self.image_ids]
        figures = compute_coco_ap(self._truth, rows, num_classes=len(self.class_names))
        per_class = figures.pop("per_class")
        figures |= {
            f"AP-{name}": float(v) for name, v in zip(self.class_names, per_class, strict=True)
        }
        logger.info("COCO AP %.2f, AP50 %.2f", figures["AP"], figures["AP50"])
        return {self._task: figures}
