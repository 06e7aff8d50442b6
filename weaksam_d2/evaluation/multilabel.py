"""Average precision of image classification with several tags for each image."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from weaksam_d2.evaluation.collect import gather_by_image

__all__ = ["MultilabelEvaluator", "compute_multilabel_ap"]

logger = logging.getLogger(__name__)


def compute_multilabel_ap(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each class over the images, in [0, 1]; NaN for a class without one.

    ``scores`` float (I, C), larger is more certain; ``labels`` bool (I, C). The mean of the
    precision at each positive; images of equal score count together, so that the result does
    not depend on their order.
    """
    if scores.shape != labels.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} must both be (I, C)")
    result = np.full(scores.shape[1], np.nan)
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        ranked, positive = scores[order, column], labels[order, column].astype(np.float64)
        if positive.sum() == 0:
            continue
        # The last image of every run of equal scores.
        ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        hits = positive.cumsum()[ends]
        precision = hits / (ends + 1)
        result[column] = np.sum(np.diff(hits, prepend=0.0) * precision) / positive.sum()
    return result


class MultilabelEvaluator(DatasetEvaluator):
    """Tag mAP of a classifier whose outputs are ``{"class_logits": (C,)}``.

    ``records`` are weak records with ``image_labels``. Gives ``tags/mAP``, the number of classes
    averaged (those with a positive image) and ``AP-<class>``, in percent.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        distributed: bool = True,
    ) -> None:
        self._names = list(class_names)
        self._labels: dict[str, np.ndarray] = {}
        for record in records:
            if "image_labels" not in record:
                raise ValueError(
                    f"record of image {record['image_id']!r} has no image_labels; a classifier is "
                    "evaluated on a weak data set"
                )
            row = np.zeros(len(self._names), bool)
            row[list(record["image_labels"])] = True
            self._labels[str(record["image_id"])] = row
        self._distributed = distributed
        self._part: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """Forget all scores."""
        self._part = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep the logits of each image."""
        for one, output in zip(inputs, outputs, strict=True):
            image_id = str(one["image_id"])
            logits = output["class_logits"].detach().float().cpu().numpy()
            if image_id not in self._labels:
                raise ValueError(f"image {image_id!r} is not in the split that is evaluated")
            if logits.shape != (len(self._names),) or not np.isfinite(logits).all():
                raise ValueError(
                    f"class_logits of image {image_id!r} must be {len(self._names)} finite "
                    f"values, got shape {logits.shape}"
                )
            self._part[image_id] = logits

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Figures of the whole split in percent on rank 0, an empty dict on other ranks."""
        rows = gather_by_image(self._part, list(self._labels), distributed=self._distributed)
        if rows is None:
            return {}
        missing = len(self._labels) - len(rows)
        if missing:
            raise ValueError(f"{missing} of {len(self._labels)} images have no class_logits")
        scores = np.array(list(rows.values()), np.float64).reshape(-1, len(self._names))
        labels = np.array([self._labels[key] for key in rows], bool).reshape(scores.shape)
        values = 100 * compute_multilabel_ap(scores, labels)
        seen = values[~np.isnan(values)]
        figures = {"mAP": float(seen.mean()) if len(seen) else float("nan")}
        figures["num_classes"] = float(len(seen))
        figures |= {f"AP-{n}": float(v) for n, v in zip(self._names, values, strict=True)}
        logger.info("Tag mAP %.2f over %d classes", figures["mAP"], len(seen))
        return {"tags": figures}
