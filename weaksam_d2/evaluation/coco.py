"""COCO average precision of boxes, from records in memory."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weaksam_d2.evaluation.bootstrap import batched_intervals
from weaksam_d2.evaluation.coco_library import coco_evaluation, coco_matches, load_library
from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections, GroundTruth
from weaksam_d2.evaluation.voc import resampled_mean_ap

__all__ = ["CocoBoxEvaluator", "coco_intervals", "compute_coco_ap"]

logger = logging.getLogger(__name__)

# Positions in COCOeval.stats of its bounding box summary.
_METRICS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5}


def compute_coco_ap(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    library: str = "pycocotools",
) -> dict[str, Any]:
    """COCO box AP in percent, at most 100 detections for each image and class.

    Both sequences hold one entry for each image. Difficult objects are ignored: neither missed
    nor false positives. ``library`` is ``TEST.COCO_EVAL``. Gives AP, AP50, AP75, APs, APm, APl
    and ``per_class`` (C,), NaN where nothing could be measured.
    """
    if not any(len(one.scores) for one in detections):
        return _without_detections(truth, num_classes)
    evaluation = coco_evaluation(truth, detections, num_classes=num_classes, library=library)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [100 * float(value) if value >= 0 else float("nan") for value in evaluation.stats]
    # (IoU thresholds, recalls, classes, areas, detection limits): all areas, 100 detections.
    precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
    per_class = [
        100 * float(valid.mean()) if (valid := one[one >= 0]).size else float("nan")
        for one in np.moveaxis(precision, 2, 0)
    ]
    figures: dict[str, Any] = {name: stats[place] for name, place in _METRICS.items()}
    figures["per_class"] = np.array(per_class)
    return figures


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


def coco_intervals(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    resamples: int,
    seed: int = 0,
) -> dict[str, float]:
    """95 % intervals over images of AP and AP50 in percent: ``AP_low`` … ``AP50_high``.

    Detections are matched once, by pycocotools (the other library keeps its matches to itself).
    """
    if not any(len(one.scores) for one in detections):
        value = compute_coco_ap(truth, detections, num_classes=num_classes)["AP"]
        return dict.fromkeys(("AP_low", "AP_high", "AP50_low", "AP50_high"), value)
    evaluation = coco_evaluation(truth, detections, num_classes=num_classes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
    matches, levels = coco_matches(evaluation), evaluation.params.recThrs

    def figures(counts: np.ndarray) -> np.ndarray:
        values = np.array([resampled_mean_ap(one, counts, levels) for one in matches])
        return np.stack([values.mean(axis=0), values[0]], axis=1)

    low, high = batched_intervals(figures, len(truth), resamples=resamples, seed=seed)
    return {
        f"{name}_{side}": 100 * float(values[column])
        for column, name in enumerate(("AP", "AP50"))
        for side, values in (("low", low), ("high", high))
    }


class CocoBoxEvaluator(DetectionEvaluator):
    """COCO box AP on the records of any annotated data set.

    detectron2's own evaluator wants a JSON file, compares ids by type and may read ground truth
    of another run from its cache; here records in memory are the only source. ``task`` is the
    name under which the figures are given, ``library`` as ``TEST.COCO_EVAL``; with ``bootstrap``
    resamples over images there are AP_low, AP_high, AP50_low and AP50_high (95 %).

    Raises:
        ValueError: another library. ImportError: one that is not installed.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        task: str = "bbox",
        library: str = "pycocotools",
        bootstrap: int = 0,
        seed: int = 0,
        distributed: bool = True,
    ) -> None:
        super().__init__(records, class_names, distributed=distributed)
        load_library(library)  # before hours of inference, not after
        self._task, self._library = task, library
        self._bootstrap, self._seed = bootstrap, seed
        self._truth = [GroundTruth.from_record(r, num_classes=len(class_names)) for r in records]

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """AP, AP50, AP75, APs, APm, APl and ``AP-<class>``."""
        rows = [detections[image_id] for image_id in self.image_ids]
        count = len(self.class_names)
        figures = compute_coco_ap(self._truth, rows, num_classes=count, library=self._library)
        per_class = figures.pop("per_class")
        if self._bootstrap:
            figures |= coco_intervals(
                self._truth,
                rows,
                num_classes=count,
                resamples=self._bootstrap,
                seed=self._seed,
            )
        figures |= {
            f"AP-{name}": float(v) for name, v in zip(self.class_names, per_class, strict=True)
        }
        logger.info("COCO AP %.2f, AP50 %.2f", figures["AP"], figures["AP50"])
        return {self._task: figures}
