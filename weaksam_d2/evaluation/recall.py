"""Recall of objects by proposals that know no class."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.evaluation.bootstrap import batched_intervals
from weaksam_d2.evaluation.collect import GroundTruth, gather_by_image
from weaksam_d2.ops import best_iou, iou_matrix, one2one_recall_iou

__all__ = [
    "ProposalRecallEvaluator",
    "average_recall",
    "compute_recall",
    "covered_iou",
    "evaluate_store",
    "recall_by_count",
    "recall_curve",
    "recall_groups",
    "recall_intervals",
    "store_boxes",
]

logger = logging.getLogger(__name__)

MATCHERS = {"one2one": one2one_recall_iou, "any": best_iou}
# COCO's limits of small and medium objects, square pixels.
_SMALL, _MEDIUM = 32.0**2, 96.0**2
# The same limits as a share of an image of COCO's usual 640 x 480 pixels.
_TYPICAL_IMAGE = 640.0 * 480.0
AR_IOUS = np.arange(50, 100, 5) / 100
_BLOCK = 10_000  # proposals of one image whose IoU is held in memory at once


def covered_iou(
    gt_boxes: Sequence[np.ndarray], proposals: Sequence[np.ndarray], *, match: str
) -> np.ndarray:
    """IoU float64 (G,) with which each object of the split is covered, image after image.

    Both sequences hold XYXY boxes (g, 4) and (n, 4) of each image. ``match`` is ``"one2one"``
    (a proposal covers one object, best pairs first) or ``"any"``. 0 where nothing is left.

    Raises:
        ValueError: for another ``match`` or sequences of different length.
    """
    if match not in MATCHERS:
        raise ValueError(f"recall matching must be one of {sorted(MATCHERS)}, got {match!r}")
    if len(gt_boxes) != len(proposals):
        raise ValueError(
            f"objects of {len(gt_boxes)} images but proposals of {len(proposals)}; give one entry "
            "for each image, empty where there is none"
        )
    parts = [np.zeros(0)]
    for objects, boxes in zip(gt_boxes, proposals, strict=True):
        parts.append(MATCHERS[match](blocked_iou(objects, boxes)))
    return np.concatenate(parts)


def blocked_iou(objects: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU float64 (g, n) of XYXY boxes, computed in blocks so that temporaries stay small."""
    objects, boxes = np.reshape(objects, (-1, 4)), np.reshape(boxes, (-1, 4))
    blocks = [
        iou_matrix(objects, boxes[start : start + _BLOCK])
        for start in range(0, max(len(boxes), 1), _BLOCK)
    ]
    return np.concatenate(blocks, axis=1)


def _recall(covered: np.ndarray, iou: float) -> float:
    """Share of objects covered with at least this IoU, in percent; NaN without objects."""
    return 100 * float((covered >= iou).mean()) if len(covered) else float("nan")


def recall_key(iou: float) -> str:
    """The name of a recall: ``recall50`` at IoU 0.5."""
    return f"recall{round(100 * iou):02d}"


def compute_recall(
    gt_boxes: Sequence[np.ndarray],
    proposals: Sequence[np.ndarray],
    ious: Sequence[float] = (0.5, 0.75, 0.9),
    match: str = "one2one",
) -> dict[str, float]:
    """Recall of a split: ``recall50`` … in percent, and ``per_image``, the mean count of boxes.

    Arguments as in `covered_iou`. An object is covered at IoU *at least* the threshold. An image
    with objects and no proposals has missed them; one without objects only counts for the mean
    number of boxes. Without any object recall is NaN. WeakSAM, Sec. 4.1 (``one2one``).
    """
    covered = covered_iou(gt_boxes, proposals, match=match)
    if not len(covered):
        logger.warning("the split has no object: its recall is not defined")
    figures = {recall_key(iou): _recall(covered, iou) for iou in ious}
    counts = [len(boxes) for boxes in proposals]
    figures["per_image"] = float(np.mean(counts)) if counts else float("nan")
    return figures


def recall_intervals(
    gt_boxes: Sequence[np.ndarray],
    proposals: Sequence[np.ndarray],
    ious: Sequence[float] = (0.5, 0.75, 0.9),
    match: str = "one2one",
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, float]:
    """95 % intervals over images of `compute_recall`: ``recall50_low``, ``recall50_high`` …

    Objects are matched once; a resample without any object is left out.
    """
    covered = covered_iou(gt_boxes, proposals, match=match)
    objects = np.array([len(boxes) for boxes in gt_boxes], np.float64)
    sums = np.zeros((len(objects), len(ious)))
    owner = np.repeat(np.arange(len(objects)), objects.astype(np.int64))
    np.add.at(sums, owner, covered[:, None] >= np.asarray(ious)[None])

    def figures(counts: np.ndarray) -> np.ndarray:
        total = (counts @ objects)[:, None]
        covered_objects = counts @ sums
        empty = np.full(covered_objects.shape, np.nan)
        return np.divide(covered_objects, total, out=empty, where=total > 0)

    low, high = batched_intervals(figures, len(objects), resamples=resamples, seed=seed)
    return {
        f"{recall_key(iou)}_{side}": 100 * float(values[column])
        for column, iou in enumerate(ious)
        for side, values in (("low", low), ("high", high))
    }


def recall_groups(
    covered: np.ndarray,
    truth: Sequence[GroundTruth],
    *,
    ious: Sequence[float] = (0.5, 0.75, 0.9),
    class_names: Sequence[str] = (),
    relative: bool = False,
) -> dict[str, float]:
    """Recall of small, medium and large objects and of each class, in percent.

    ``covered`` comes from the boxes of ``truth``, in the same order. Sizes are COCO's (32² and
    96² square pixels) of the box, or with ``relative`` the same shares of a 640 x 480 image.
    Keys are ``recall50_small`` … and ``recall50-<class>``; a group without objects is NaN.
    ValueError if the lengths differ or a size that is needed is not known.
    """
    areas = [
        np.prod(one.boxes[:, 2:] - one.boxes[:, :2], axis=1, dtype=np.float64) for one in truth
    ]
    if relative:
        if not all(one.size[0] * one.size[1] for one in truth):
            raise ValueError("relative sizes need the height and width of every record")
        areas = [
            area * _TYPICAL_IMAGE / (one.size[0] * one.size[1])
            for area, one in zip(areas, truth, strict=True)
        ]
    area = np.concatenate([np.zeros(0), *areas])
    classes = np.concatenate([np.zeros(0, np.int64), *(one.classes for one in truth)])
    if len(area) != len(covered):
        raise ValueError(f"{len(covered)} covered objects, but the truth has {len(area)}")
    groups = {
        "_small": area < _SMALL,
        "_medium": (area >= _SMALL) & (area < _MEDIUM),
        "_large": area >= _MEDIUM,
    }
    groups |= {f"-{name}": classes == cls for cls, name in enumerate(class_names)}
    return {
        recall_key(iou) + name: _recall(covered[group], iou)
        for iou in ious
        for name, group in groups.items()
    }


def average_recall(
    gt_boxes: Sequence[np.ndarray], proposals: Sequence[np.ndarray], counts: Sequence[int]
) -> dict[str, float]:
    """AR@N in percent: mean one2one recall over IoU .5:.05:.95 with the first N boxes."""
    figures = {}
    for count in counts:
        covered = covered_iou(gt_boxes, [boxes[:count] for boxes in proposals], match="one2one")
        figures[f"AR@{count}"] = float(np.mean([_recall(covered, iou) for iou in AR_IOUS]))
    return figures


def recall_curve(covered: np.ndarray, *, points: int = 51) -> dict[str, list[float]]:
    """Recall in percent at IoU .5 to 1 for a chart: ``{"iou": [...], "recall": [...]}``."""
    ious = np.linspace(0.5, 1.0, points)
    return {"iou": ious.tolist(), "recall": [_recall(covered, iou) for iou in ious]}


def recall_by_count(
    gt_boxes: Sequence[np.ndarray],
    proposals: Sequence[np.ndarray],
    counts: Sequence[int],
    *,
    iou: float = 0.5,
    match: str = "one2one",
) -> dict[str, list[float]]:
    """Recall in percent with the first N boxes of each image.

    Returns ``{"count": mean boxes for each image, "recall": [...]}``; a count that no image
    reaches repeats the point before and is left out.
    """
    result: dict[str, list[float]] = {"count": [], "recall": []}
    for count in sorted(counts):
        part = [boxes[:count] for boxes in proposals]
        mean = float(np.mean([len(boxes) for boxes in part])) if part else float("nan")
        if result["count"] and mean == result["count"][-1]:
            continue
        result["count"].append(mean)
        result["recall"].append(_recall(covered_iou(gt_boxes, part, match=match), iou))
    return result


def store_boxes(
    store: ProposalStore,
    records: Sequence[Mapping[str, Any]],
    *,
    limit: Sequence[int] | np.ndarray | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Boxes of objects and of proposals, (g, 4) and (n, 4) for each record.

    Difficult objects count, crowds do not. ``limit`` holds a count for each record: only that
    many first boxes are taken (a baseline at equal count).

    Raises:
        KeyError: for an image that the store does not hold.
        ValueError: if ``limit`` and ``records`` differ in length.
    """
    if limit is not None and len(limit) != len(records):
        raise ValueError(f"limit has {len(limit)} counts for {len(records)} images")
    objects, proposals = [], []
    for place, record in enumerate(records):
        truth = GroundTruth.from_record(record)
        boxes = np.asarray(store[str(record["image_id"])].boxes)
        objects.append(truth.boxes[~truth.crowd])
        proposals.append(boxes if limit is None else boxes[: int(limit[place])])
    return objects, proposals


def evaluate_store(
    store: ProposalStore,
    records: Sequence[Mapping[str, Any]],
    *,
    ious: Sequence[float] = (0.5, 0.75, 0.9),
    match: str = "one2one",
    limit: Sequence[int] | np.ndarray | None = None,
) -> dict[str, float]:
    """`compute_recall` of a proposal store on annotated records; arguments as in `store_boxes`."""
    return compute_recall(*store_boxes(store, records, limit=limit), ious, match)


class ProposalRecallEvaluator(DatasetEvaluator):
    """Recall of the ``proposals`` (``proposal_boxes``) that a model gives for annotated records.

    Gives ``recall50`` … and ``per_image`` under the task ``box_proposals``, with ``bootstrap``
    resamples over images also ``recall50_low`` and ``recall50_high`` (95 %).
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        *,
        ious: Sequence[float] = (0.5, 0.75, 0.9),
        match: str = "one2one",
        bootstrap: int = 0,
        seed: int = 0,
        distributed: bool = True,
    ) -> None:
        self._bootstrap, self._seed = bootstrap, seed
        self._objects: dict[str, np.ndarray] = {}
        for record in records:
            truth = GroundTruth.from_record(record)
            self._objects[str(record["image_id"])] = truth.boxes[~truth.crowd]
        self._ious = tuple(ious)
        self._match = match
        self._distributed = distributed
        self._part: dict[str, np.ndarray] = {}

    def reset(self) -> None:
        """Forget all proposals."""
        self._part = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep the boxes of each image, in the order given."""
        for one, output in zip(inputs, outputs, strict=True):
            image_id = str(one["image_id"])
            if image_id not in self._objects:
                raise ValueError(f"image {image_id!r} is not in the split that is evaluated")
            boxes = output["proposals"].proposal_boxes.tensor
            self._part[image_id] = boxes.detach().cpu().numpy()

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Figures of the whole split in percent on rank 0, an empty dict on other ranks."""
        rows = gather_by_image(self._part, list(self._objects), distributed=self._distributed)
        if rows is None:
            return {}
        # An image that no rank gave has no proposals: its objects are missed.
        proposals = [rows.get(key, np.zeros((0, 4), np.float32)) for key in self._objects]
        objects = list(self._objects.values())
        figures = compute_recall(objects, proposals, self._ious, self._match)
        if self._bootstrap:
            figures |= recall_intervals(
                objects,
                proposals,
                self._ious,
                self._match,
                resamples=self._bootstrap,
                seed=self._seed,
            )
        return {"box_proposals": figures}
