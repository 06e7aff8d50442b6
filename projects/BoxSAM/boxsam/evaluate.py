"""Figures of BoxSAM's parts: tags, boxes, labels, and ways to group masks in true boxes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.artifacts import LabelSpace, Prompts
from weaksam_d2.data import read_image
from weaksam_d2.evaluation import (
    Detections,
    GroundTruth,
    compute_multilabel_ap,
    compute_voc_ap,
    match_classes,
)
from weaksam_d2.evaluation.label_figures import LabelTally
from weaksam_d2.ops import decode_rle
from weaksam_d2.sam import Embedding, SamBackend

from .boxes import ClassBoxes
from .fuse import FuseSettings, Instance, fuse_instances
from .segmenter import BoxSegmenter
from .tag_scores import TagScores

__all__ = [
    "LastEmbedding",
    "ScoreRecorder",
    "box_figures",
    "compare_groupings",
    "tag_figures",
    "tag_ranking",
]

Record = Mapping[str, Any]
Truth = Callable[[str], np.ndarray]


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


def compare_groupings(
    segmenters: Mapping[str, BoxSegmenter],
    records: Sequence[Record],
    *,
    boxes: Mapping[str, ClassBoxes],
    fuse: FuseSettings,
    truth: Truth,
    space: LabelSpace,
    on_progress: Callable[[int], Any] | None = None,
) -> dict[str, dict[str, float]]:
    """How ways to group masks do on true boxes: an analysis (wsss.md, Sec. 7.4).

    records: of the set with instance masks. boxes: all true boxes by image id; their instances
    are the label map. Gives for each segmenter ``box_recall`` and ``box_precision``, means over
    the boxes of instances with a mask (crowds are none) of the share of its pixels that are found
    and of found pixels that are right, and the label map's ``mIoU``, all in percent.
    """
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in segmenters}
    tallies = {name: LabelTally(space.num_labels, ignore=space.ignore) for name in segmenters}
    for record in records:
        image_id = str(record["image_id"])
        image = read_image(record["file_name"], "RGB")
        objects = [row for row in record["annotations"] if not row.get("iscrowd", 0)]
        known = torch.tensor([row["bbox"] for row in objects], dtype=torch.float32).reshape(-1, 4)
        every = boxes[image_id]
        asked = torch.cat([known, torch.from_numpy(every.boxes)])
        labels = truth(image_id)
        for name, segmenter in segmenters.items():
            found = segmenter.masks(record, image, asked)
            for row, one in zip(objects, found, strict=False):
                shares[name].append(_shares(one.mask, row["segmentation"]))
            rest = zip(every.classes.tolist(), found[len(objects) :], strict=True)
            instances = [
                Instance(category, 1.0, one.mask.cpu().numpy(), _array(one.logits))
                for category, one in rest
                if "empty_mask" not in one.flags
            ]
            size = (image.shape[0], image.shape[1])
            tallies[name].add(image_id, labels, fuse_instances(instances, size, fuse))
        if on_progress is not None:
            on_progress(1)
    return {name: _summary(shares[name], tallies[name], space) for name in segmenters}


def _array(logits: Tensor | None) -> np.ndarray | None:
    return None if logits is None else logits.cpu().numpy()


def _shares(mask: Tensor, code: Mapping[str, Any]) -> tuple[float, float]:
    """Recall and precision of a mask's pixels; an empty mask has precision 0."""
    counts = code["counts"]
    counts = counts.encode() if isinstance(counts, str) else counts
    true = decode_rle([counts], (int(code["size"][0]), int(code["size"][1])))[0]
    found = mask.cpu().numpy()
    hits, wanted, given = (int(np.count_nonzero(m)) for m in (found & true, true, found))
    return hits / wanted, hits / max(1, given)


def _summary(
    shares: Sequence[tuple[float, float]], tally: LabelTally, space: LabelSpace
) -> dict[str, float]:
    means = np.mean(shares, axis=0) if shares else np.full(2, np.nan)
    figures = {"box_recall": 100 * float(means[0]), "box_precision": 100 * float(means[1])}
    mean_iou = tally.figures(space.classes).summary()["mIoU"]
    return {**figures, "mIoU": mean_iou, "boxes": float(len(shares))}
