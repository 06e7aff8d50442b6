"""Tags to boxes: an open-vocabulary detector, or the true boxes (for analysis)."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from torch import Tensor

from .boxes import BoxSettings, ClassBoxes, select_boxes
from .grounding_dino import load_grounding_dino
from .names import class_words

__all__ = ["Detector", "GivenBoxes", "OpenVocabularyDetector", "build_detector", "true_boxes"]

logger = logging.getLogger(__name__)

_BOXES = ("detected", "given")


class Detector(Protocol):
    """Finds the objects of given classes in an image."""

    supervision: str  # "none" or "given_boxes"

    def __call__(
        self, record: Mapping[str, Any], image: np.ndarray, tags: Sequence[int]
    ) -> ClassBoxes:
        """Boxes of an RGB uint8 image (H, W, 3), of the contiguous classes ``tags`` alone."""


class OpenVocabularyDetector:
    """Boxes by the names of the tags; all tags of an image in one text.

    Args:
        find: image and words to boxes (Q, 4), XYXY in pixels, and scores (Q, K), such as
            ``GroundingDino``.
        words: what each class is called.
        settings: thresholds and suppression.
    """

    supervision = "none"

    def __init__(
        self,
        find: Callable[[np.ndarray, Sequence[str]], tuple[Tensor, Tensor]],
        *,
        words: Sequence[str],
        settings: BoxSettings,
    ) -> None:
        self.find = find
        self.words = list(words)
        self.settings = settings

    def __call__(
        self, record: Mapping[str, Any], image: np.ndarray, tags: Sequence[int]
    ) -> ClassBoxes:
        """Boxes of the tags; none, without looking at the image, where there are no tags."""
        if not tags:
            return ClassBoxes.none()
        boxes, scores = self.find(image, [self.words[tag] for tag in tags])
        size = (int(image.shape[0]), int(image.shape[1]))
        return select_boxes(boxes, scores, tags, size, self.settings)


class GivenBoxes:
    """True boxes, each with score 1, by image file: for analysis, never weak supervision.

    Crowd regions are no objects; difficult objects are.
    """

    supervision = "given_boxes"

    def __init__(self, boxes: Mapping[str, ClassBoxes], *, where: str) -> None:
        self.boxes = dict(boxes)
        self.where = where

    def classes(self, record: Mapping[str, Any]) -> list[int]:
        """The classes that an image has boxes of, rising."""
        return sorted(set(self._of(record).classes.tolist()))

    def __call__(
        self, record: Mapping[str, Any], image: np.ndarray, tags: Sequence[int]
    ) -> ClassBoxes:
        """The boxes of the tags, in the order of the annotations."""
        known = self._of(record)
        rows = np.isin(known.classes, list(tags))
        return ClassBoxes(known.boxes[rows], known.scores[rows], known.classes[rows])

    def _of(self, record: Mapping[str, Any]) -> ClassBoxes:
        if record["file_name"] not in self.boxes:
            raise KeyError(
                f"image '{record['image_id']}' has no true boxes in {self.where}; name its data "
                "set in DATASETS.TRAIN or DATASETS.TEST, or set BOXSAM.DETECTOR.BOXES to 'detected'"
            )
        return self.boxes[record["file_name"]]


def true_boxes(name: str) -> dict[str, ClassBoxes]:
    """True boxes of a weak data set by image id, from its twin (``metadata.evaluation_name``).

    Raises:
        ValueError: a set without a twin.
    """
    return {str(record["image_id"]): _boxes_of(record) for record in _twin_records(name)}


def _twin_records(name: str) -> list[dict[str, Any]]:
    twin = MetadataCatalog.get(name).get("evaluation_name", "")
    if not twin:
        raise ValueError(
            f"data set '{name}' has no annotated twin (metadata.evaluation_name), and "
            "BOXSAM.DETECTOR.BOXES is 'given'"
        )
    records: list[dict[str, Any]] = DatasetCatalog.get(twin)
    return records


def _boxes_of(record: Mapping[str, Any]) -> ClassBoxes:
    objects = [row for row in record["annotations"] if not row.get("iscrowd", 0)]
    corners = [
        BoxMode.convert(list(row["bbox"]), row["bbox_mode"], BoxMode.XYXY_ABS) for row in objects
    ]
    limit = [record["width"], record["height"]] * 2
    boxes = np.clip(np.array(corners, np.float32).reshape(-1, 4), 0, limit).astype(np.float32)
    classes = np.array([row["category_id"] for row in objects], np.int64)
    return ClassBoxes(boxes, np.ones(len(boxes), np.float32), classes)


def build_detector(cfg: Any, class_names: Sequence[str]) -> Detector:
    """The detector of ``BOXSAM.DETECTOR``, on ``MODEL.DEVICE``.

    Raises:
        ValueError: an unknown value, or given boxes of a set without a twin.
        WeightsError: the model cannot be had.
    """
    node = cfg.BOXSAM.DETECTOR
    if node.BOXES not in _BOXES:
        raise ValueError(f"BOXSAM.DETECTOR.BOXES is {node.BOXES!r}, allowed: {', '.join(_BOXES)}")
    if node.BOXES == "given":
        names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        logger.warning("true boxes of %s are used: this is analysis, no weak supervision", names)
        # By file: the training and the test set may both have an image "1".
        boxes = {r["file_name"]: _boxes_of(r) for name in names for r in _twin_records(name)}
        return GivenBoxes(boxes, where=f"the twins of {names}")
    settings = BoxSettings(node.BOX_THRESHOLD, node.NMS, node.CROSS_CLASS_NMS, node.MAX_BOXES)
    return OpenVocabularyDetector(
        load_grounding_dino(node.MODEL, cfg.MODEL.DEVICE),
        words=class_words(class_names),
        settings=settings,
    )
