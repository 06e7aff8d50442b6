"""Correct localization: is the best detection of a class that is there on an object of it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weaksam_d2.evaluation.bootstrap import bootstrap_interval
from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections, GroundTruth
from weaksam_d2.ops import corloc_hits

__all__ = ["CorLocEvaluator", "compute_corloc"]

logger = logging.getLogger(__name__)


def compute_corloc(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    iou_thresh: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Localization of every (image, class) pair: bool (I, C) hits and bool (I, C) presence.

    Both sequences hold one entry for each image. A class is present with one object of it,
    difficult ones count, crowds do not. It is localized if the single best scored detection of
    it (ties: first) has IoU *above* the threshold with some object of the class; no detection is
    a miss. CorLoc of a class is hits / presence (WeakSAM, Table 10).
    """
    if len(truth) != len(detections):
        raise ValueError(f"{len(truth)} images of truth, {len(detections)} of detections")
    hits = np.zeros((len(truth), num_classes), bool)
    present = np.zeros_like(hits)
    for place, (objects, found) in enumerate(zip(truth, detections, strict=True)):
        for cls in np.unique(objects.classes[~objects.crowd]):
            present[place, cls] = True
            rows = np.flatnonzero(found.classes == cls)
            boxes = objects.boxes[(objects.classes == cls) & ~objects.crowd]
            hits[place, cls] = corloc_hits(
                [""] * len(rows),
                found.boxes[rows],
                found.scores[rows],
                {"": boxes},
                iou_threshold=iou_thresh,
            )[0]
    return hits, present


def _mean_corloc(hits: np.ndarray, present: np.ndarray, counts: np.ndarray | None = None) -> float:
    values = _class_corloc(hits, present, counts)
    seen = values[~np.isnan(values)]
    return float(seen.mean()) if len(seen) else float("nan")


def _class_corloc(
    hits: np.ndarray, present: np.ndarray, counts: np.ndarray | None = None
) -> np.ndarray:
    weights = np.ones(len(hits), np.int64) if counts is None else counts
    positive = weights @ present
    return np.divide(
        weights @ hits, positive, out=np.full(hits.shape[1], np.nan), where=positive > 0
    )


class CorLocEvaluator(DetectionEvaluator):
    """CorLoc of a split, which may be the training split: it asks for present classes only.

    Gives CorLoc, num_classes (averaged), ``CorLoc-<class>`` (NaN for a class without an image)
    and, with ``bootstrap`` resamples over images, CorLoc_low and CorLoc_high (95 %), in percent
    under the task ``corloc``.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        bootstrap: int = 0,
        seed: int = 0,
        distributed: bool = True,
    ) -> None:
        super().__init__(records, class_names, distributed=distributed)
        self._truth = [GroundTruth.from_record(r, num_classes=len(class_names)) for r in records]
        self._bootstrap = bootstrap
        self._seed = seed

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """CorLoc of the split."""
        hits, present = compute_corloc(
            self._truth,
            [detections[image_id] for image_id in self.image_ids],
            num_classes=len(self.class_names),
        )
        per_class = 100 * _class_corloc(hits, present)
        figures = {"CorLoc": 100 * _mean_corloc(hits, present)}
        if self._bootstrap:
            low, high = bootstrap_interval(
                lambda counts: _mean_corloc(hits, present, counts),
                len(hits),
                resamples=self._bootstrap,
                seed=self._seed,
            )
            figures |= {"CorLoc_low": 100 * low, "CorLoc_high": 100 * high}
        figures["num_classes"] = float((~np.isnan(per_class)).sum())
        figures |= {
            f"CorLoc-{n}": float(v) for n, v in zip(self.class_names, per_class, strict=True)
        }
        logger.info("CorLoc %.2f over %d classes", figures["CorLoc"], figures["num_classes"])
        return {"corloc": figures}
