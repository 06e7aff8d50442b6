"""Figures of BoxSAM's parts that look at no pixel: tags and boxes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from weaksam_d2.artifacts import Prompts
from weaksam_d2.evaluation import (
    Detections,
    GroundTruth,
    compute_multilabel_ap,
    compute_voc_ap,
    match_classes,
)
from weaksam_d2.sam import Embedding, SamBackend

from .boxes import ClassBoxes
from .tag_scores import TagScores

__all__ = [
    "LastEmbedding",
    "ScoreRecorder",
    "box_figures",
    "tag_figures",
    "tag_ranking",
]

Record = Mapping[str, Any]


class ScoreRecorder:
    """A tag scorer that keeps what it said last, so that an image is scored once."""

    def __init__(self, scorer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.scorer = scorer
        self.last = np.zeros(0)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Probabilities float64 (C,)."""
        self.last = self.scorer(image)
        return self.last


class LastEmbedding:
    """A SAM backend that encodes an image once for several uses in a row."""

    def __init__(self, backend: SamBackend) -> None:
        self.backend = backend
        self._image: np.ndarray | None = None
        self._embedding: Embedding | None = None

    def encode(self, image: np.ndarray) -> Embedding:
        """Encode an image, unless it is the very array of the last call."""
        if self._embedding is None or self._image is not image:
            self._image, self._embedding = image, self.backend.encode(image)
        return self._embedding

    def decode(self, embedding: Embedding, prompts: Prompts, **options: Any) -> Any:
        """As the backend."""
        return self.backend.decode(embedding, prompts, **options)


def tag_ranking(scores: TagScores, truth: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """``mAP`` and ``AP-<class>`` of the raw scores, ranked over all images, in percent.

    Classes without an image are NaN and do not enter the mean. Equal scores count together.
    """
    labels = np.zeros(scores.scores.shape, bool)
    for row, image_id in enumerate(scores.image_ids):
        labels[row, list(truth[image_id])] = True
    values = 100 * compute_multilabel_ap(scores.scores, labels)
    seen = values[~np.isnan(values)]
    figures = {"mAP": float(seen.mean()) if len(seen) else float("nan")}
    names = zip(scores.class_names, values, strict=True)
    return figures | {f"AP-{name}": float(value) for name, value in names}


def tag_figures(
    selected: Mapping[str, Sequence[int]], truth: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """``precision``, ``recall`` and ``F1`` over the (image, class) pairs of a set, in percent."""
    pairs = {(image_id, int(tag)) for image_id, tags in selected.items() for tag in tags}
    true = {(image_id, int(tag)) for image_id in selected for tag in truth[image_id]}
    hits = len(pairs & true)
    precision = hits / len(pairs) if pairs else float("nan")
    recall = hits / len(true) if true else float("nan")
    f1 = 2 * hits / (len(pairs) + len(true)) if pairs or true else float("nan")
    per_image = len(pairs) / len(selected) if selected else float("nan")
    figures = {"precision": 100 * precision, "recall": 100 * recall, "F1": 100 * f1}
    return {**figures, "tags_per_image": per_image}


def box_figures(
    found: Mapping[str, ClassBoxes],
    records: Mapping[str, Record],
    class_names: Sequence[str],
    *,
    metric: str = "area",
) -> dict[str, float]:
    """``mAP`` at IoU 0.5 and ``AP-<class>`` as in VOC, in percent.

    records: annotated, by image id. metric: "area" or "11point".
    """
    truth, detections = [], []
    for image_id, boxes in found.items():
        truth.append(GroundTruth.from_record(records[image_id], num_classes=len(class_names)))
        detections.append(Detections(boxes.boxes, boxes.scores, boxes.classes))
    matches = match_classes(truth, detections, num_classes=len(class_names))
    mean, values = compute_voc_ap(matches, metric)
    figures = {"mAP": 100 * mean}
    return figures | {
        f"AP-{name}": 100 * float(value) for name, value in zip(class_names, values, strict=True)
    }
