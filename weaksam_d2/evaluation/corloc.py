"""Correct localization: is the best detection of a class that is there on an object of it."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weaksam_d2.evaluation.bootstrap import batched_intervals
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


def _class_corloc(hits: np.ndarray, present: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """CorLoc (B, C) of each class in resamples with image ``counts`` (B, I); NaN without one."""
    positive = counts @ present
    return np.divide(
        counts @ hits, positive, out=np.full(positive.shape, np.nan), where=positive > 0
    )


def _mean_corloc(hits: np.ndarray, present: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean (B,) over the classes that are present in each resample; NaN where none is."""
    values = _class_corloc(hits, present, counts)
    number = (~np.isnan(values)).sum(axis=1)
    total = np.nansum(values, axis=1)
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)


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
        localized, there = hits.astype(np.float64), present.astype(np.float64)
        once = np.ones((1, len(hits)))
        per_class = 100 * _class_corloc(localized, there, once)[0]
        figures = {"CorLoc": 100 * float(_mean_corloc(localized, there, once)[0])}
        if self._bootstrap:
            low, high = batched_intervals(
                lambda counts: _mean_corloc(localized, there, counts)[:, None],
                len(hits),
                resamples=self._bootstrap,
                seed=self._seed,
            )
            figures |= {"CorLoc_low": 100 * float(low[0]), "CorLoc_high": 100 * float(high[0])}
        figures["num_classes"] = float((~np.isnan(per_class)).sum())
        figures |= {
            f"CorLoc-{n}": float(v) for n, v in zip(self.class_names, per_class, strict=True)
        }
        logger.info("CorLoc %.2f over %d classes", figures["CorLoc"], figures["num_classes"])
        return {"corloc": figures}
