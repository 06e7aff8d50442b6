"""PASCAL VOC average precision at full score precision, on any annotated records."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam_d2.evaluation.bootstrap import batched_intervals
from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections, GroundTruth
from weaksam_d2.ops import match_detections, precision_recall, resampled_ap, voc_ap

__all__ = [
    "VOC_METRICS",
    "ClassMatches",
    "WeakVOCEvaluator",
    "compute_voc_ap",
    "match_classes",
    "resampled_mean_ap",
]

logger = logging.getLogger(__name__)

# Recall levels at which each metric reads precision; None: the area under the curve.
_RECALL_LEVELS = {"11point": np.arange(11) / 10, "area": None}
VOC_METRICS = tuple(_RECALL_LEVELS)


@dataclass(frozen=True)
class ClassMatches:
    """Judged detections of one class, by falling score, and the objects of each image.

    ``image`` int64 (D,) is the image's place in the split; ``positives`` int64 (I,) counts the
    objects that are neither difficult nor crowd.
    """

    image: np.ndarray
    true_positive: np.ndarray
    false_positive: np.ndarray
    positives: np.ndarray

    def average_precision(self, metric: str, counts: np.ndarray | None = None) -> float:
        """AP in [0, 1], NaN without an object; ``counts`` int (I,) weighs images."""
        total = self.positives.sum() if counts is None else (self.positives * counts).sum()
        if total == 0:
            return float("nan")
        # Copies of a detection share its place in the order, and AP needs the curve only where
        # all of them are in: weights give exactly the AP of the resampled images.
        weights = None if counts is None else counts[self.image]
        recall, precision = precision_recall(
            self.true_positive, self.false_positive, float(total), weights
        )
        return voc_ap(recall, precision, metric)


def match_classes(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    iou_thresh: float = 0.5,
    inclusive: bool = False,
) -> list[ClassMatches]:
    """Match detections with objects, class by class, as the VOC development kit does.

    Both sequences hold one entry for each image, in order of the split. Detections go by falling
    score, ties by image, then by their order in it. A hit has IoU *above* the threshold; a second
    hit of an object is false; a hit of a difficult or crowd object counts neither way.
    ``inclusive`` is the kit's pixel convention (a side is x2 - x1 + 1) for boxes given that way;
    half-open boxes from ``[xmin - 1, ymin - 1, xmax, ymax]`` have the same IoU without it.
    """
    if len(truth) != len(detections):
        raise ValueError(f"{len(truth)} images of truth, {len(detections)} of detections")
    grow = np.array([0, 0, 1, 1], np.float32) if inclusive else np.zeros(4, np.float32)
    counts = [len(one.scores) for one in detections]
    owner = np.repeat(np.arange(len(truth)), counts)
    boxes = _joined([one.boxes for one in detections], (0, 4)) + grow
    scores = _joined([one.scores for one in detections], (0,))
    classes = _joined([one.classes for one in detections], (0,))
    result = []
    for cls in range(num_classes):
        rows = np.flatnonzero(classes == cls)
        objects, positives = _objects_of_class(truth, cls, grow)
        matches = match_detections(
            [str(place) for place in owner[rows]],
            boxes[rows],
            scores[rows],
            objects,
            iou_threshold=iou_thresh,
        )
        result.append(
            ClassMatches(
                owner[rows][matches.order],
                matches.true_positive,
                matches.false_positive,
                positives,
            )
        )
    return result


def _joined(parts: Sequence[np.ndarray], empty: tuple[int, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(empty)


def _objects_of_class(
    truth: Sequence[GroundTruth], cls: int, grow: np.ndarray
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Boxes and flags of a class by place in the split, and the positives of every image."""
    objects: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    positives = np.zeros(len(truth), np.int64)
    for place, one in enumerate(truth):
        rows = np.flatnonzero(one.classes == cls)
        if len(rows):
            ignored = (one.difficult | one.crowd)[rows]
            objects[str(place)] = (one.boxes[rows] + grow, ignored)
            positives[place] = int((~ignored).sum())
    return objects, positives


def compute_voc_ap(
    matches: Sequence[ClassMatches], metric: str, counts: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Mean AP and AP of each class in [0, 1] under ``"11point"`` or ``"area"``.

    A class without an object is NaN and does not enter the mean; the mean is NaN if none has
    one. ``counts`` int (I,) weighs images (a bootstrap resample).
    """
    values = np.array([one.average_precision(metric, counts) for one in matches])
    seen = values[~np.isnan(values)]
    return (float(seen.mean()) if len(seen) else float("nan")), values


def resampled_mean_ap(
    matches: Sequence[ClassMatches], counts: np.ndarray, recall_levels: np.ndarray | None
) -> np.ndarray:
    """Mean AP (B,) in [0, 1] of each resample, over the classes that have an object in it.

    ``counts`` float (B, I) weighs the images; ``recall_levels`` as in ``ops.resampled_ap``.
    """
    values = np.array(
        [
            resampled_ap(
                one.image,
                one.true_positive,
                one.false_positive,
                one.positives,
                counts,
                recall_levels=recall_levels,
            )
            for one in matches
        ]
    ).reshape(len(matches), len(counts))
    seen = ~np.isnan(values)
    total = np.where(seen, values, 0.0).sum(axis=0)
    number = seen.sum(axis=0)
    return np.divide(total, number, out=np.full(len(counts), np.nan), where=number > 0)


class WeakVOCEvaluator(DetectionEvaluator):
    """VOC AP50 of a split, without the score rounding of detectron2's evaluator.

    ``records`` are annotated records; ``metric`` is the one reported as ``AP50``. Gives AP50,
    AP50_11point, AP50_area, num_classes (averaged), ``AP50-<class>`` and, with ``bootstrap``
    resamples over images, AP50_low and AP50_high (95 %), in percent under the task ``bbox``.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        metric: str = "area",
        bootstrap: int = 0,
        seed: int = 0,
        inclusive: bool = False,
        distributed: bool = True,
    ) -> None:
        if metric not in VOC_METRICS:
            raise ValueError(f"the VOC metric must be one of {VOC_METRICS}, got {metric!r}")
        super().__init__(records, class_names, distributed=distributed)
        self._truth = [GroundTruth.from_record(r, num_classes=len(class_names)) for r in records]
        self._metric = metric
        self._bootstrap = bootstrap
        self._seed = seed
        self._inclusive = inclusive

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """AP50 of the split under both metrics."""
        matches = match_classes(
            self._truth,
            [detections[image_id] for image_id in self.image_ids],
            num_classes=len(self.class_names),
            inclusive=self._inclusive,
        )
        mean, per_class = compute_voc_ap(matches, self._metric)
        figures = {"AP50": 100 * mean}
        if self._bootstrap:
            levels = _RECALL_LEVELS[self._metric]
            low, high = batched_intervals(
                lambda counts: resampled_mean_ap(matches, counts, levels)[:, None],
                len(self.image_ids),
                resamples=self._bootstrap,
                seed=self._seed,
            )
            figures |= {"AP50_low": 100 * float(low[0]), "AP50_high": 100 * float(high[0])}
        for metric in VOC_METRICS:
            figures[f"AP50_{metric}"] = 100 * compute_voc_ap(matches, metric)[0]
        averaged = int((~np.isnan(per_class)).sum())
        figures["num_classes"] = float(averaged)
        figures |= {
            f"AP50-{n}": 100 * float(v) for n, v in zip(self.class_names, per_class, strict=True)
        }
        logger.info(
            "VOC AP50 (%s) %.2f over %d of %d classes",
            self._metric,
            figures["AP50"],
            averaged,
            len(self.class_names),
        )
        return {"bbox": figures}
