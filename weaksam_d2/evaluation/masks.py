"""Average precision of instance masks at chosen IoU thresholds, from records in memory."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.evaluation.bootstrap import batched_intervals
from weaksam_d2.evaluation.coco_library import coco_evaluation, coco_matches, load_library
from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections
from weaksam_d2.evaluation.detections_writer import with_masks
from weaksam_d2.evaluation.mask_matching import TrueMasks, masks_of, match_masks
from weaksam_d2.evaluation.voc import ClassMatches, compute_voc_ap, resampled_mean_ap

__all__ = ["MASK_METRICS", "MaskEvaluator", "compute_mask_ap"]

logger = logging.getLogger(__name__)

MASK_METRICS = ("coco", "voc")
_COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


def compute_mask_ap(
    truth: Sequence[TrueMasks],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    ious: Sequence[float] = (0.25, 0.5, 0.7, 0.75),
    metric: str = "coco",
    library: str = "pycocotools",
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """AP of masks in percent: ``AP`` (COCO's mean over .5:.95), ``AP25`` … for each of ``ious``.

    Both sequences hold one entry for each image. ``metric``: how AP at ``ious`` is computed, by
    COCO's rules (101 points) or, ``voc``, as the area under the curve of VOC's matching; AP, APs,
    APm, APl and ``per_class`` (C,), AP of each class, are COCO's. At most 100 detections of a
    class in an image count for COCO. Difficult objects are ignored. ``bootstrap`` resamples over
    images give ``AP50_low`` and so on (95 %).

    Raises:
        ValueError: another metric, or detections without masks. weaksam.md, Sec. 8.3.
    """
    if metric not in MASK_METRICS:
        raise ValueError(f"TEST.MASK_EVAL is {metric!r}, expected one of {list(MASK_METRICS)}")
    names = [_name(iou) for iou in ious]
    if not any(len(one.scores) for one in detections):
        return _without_detections(truth, num_classes, names, bootstrap)
    figures, matches = _coco_figures(truth, detections, num_classes, ious, library, bootstrap)
    levels: np.ndarray | None = np.linspace(0, 1, 101)
    if metric == "voc":
        levels = None
        matches = [
            match_masks(truth, detections, num_classes=num_classes, iou_thresh=iou) for iou in ious
        ]
        for name, one in zip(names, matches, strict=True):
            figures[name] = 100 * compute_voc_ap(one, "area")[0]
    if bootstrap:
        figures |= _intervals(names, matches, levels, len(truth), bootstrap, seed)
    return figures


def _name(iou: float) -> str:
    return f"AP{100 * iou:g}"


def _coco_figures(
    truth: Sequence[TrueMasks],
    detections: Sequence[Detections],
    num_classes: int,
    ious: Sequence[float],
    library: str,
    bootstrap: int,
) -> tuple[dict[str, Any], list[list[ClassMatches]]]:
    """COCO's AP, AP at the thresholds, by class; and the judged detections of each threshold."""
    thresholds = sorted({*_COCO_IOUS, *(round(float(iou), 6) for iou in ious)})
    objects, masks = [one.objects for one in truth], [one.masks for one in truth]
    arguments: dict[str, Any] = {"num_classes": num_classes, "masks": masks}
    evaluation = coco_evaluation(objects, detections, library=library, **arguments)
    evaluation.params.iouThrs = np.array(thresholds)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU thresholds, recalls, classes, areas, detection limits): 100 detections.
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    standard = precision[[thresholds.index(iou) for iou in _COCO_IOUS]]
    figures: dict[str, Any] = {"AP": _mean(standard[..., 0])}
    places = [thresholds.index(round(float(iou), 6)) for iou in ious]
    figures |= {
        _name(iou): _mean(precision[place, ..., 0]) for iou, place in zip(ious, places, strict=True)
    }
    figures |= {
        name: _mean(standard[..., area]) for area, name in enumerate(("APs", "APm", "APl"), 1)
    }
    figures["per_class"] = np.array([_mean(standard[:, :, c, 0]) for c in range(num_classes)])
    if not bootstrap:
        return figures, []
    if library != "pycocotools":  # the other one keeps its matches to itself
        evaluation = coco_evaluation(objects, detections, **arguments)
        evaluation.params.iouThrs = np.array(thresholds)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
    matches = coco_matches(evaluation)
    return figures, [matches[place] for place in places]


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision >= 0]
    return 100 * float(valid.mean()) if valid.size else float("nan")


def _intervals(
    names: Sequence[str],
    matches: Sequence[Sequence[ClassMatches]],
    levels: np.ndarray | None,
    images: int,
    resamples: int,
    seed: int,
) -> dict[str, float]:
    def figures(counts: np.ndarray) -> np.ndarray:
        return np.stack([resampled_mean_ap(one, counts, levels) for one in matches], axis=1)

    low, high = batched_intervals(figures, images, resamples=resamples, seed=seed)
    return {
        f"{name}_{side}": 100 * float(values[column])
        for column, name in enumerate(names)
        for side, values in (("low", low), ("high", high))
    }


def _without_detections(
    truth: Sequence[TrueMasks], num_classes: int, names: Sequence[str], bootstrap: int
) -> dict[str, Any]:
    """COCO's loader refuses an empty list; every class with an object then has AP 0."""
    per_class = np.full(num_classes, np.nan)
    for one in truth:
        counted = ~(one.objects.difficult | one.objects.crowd)
        per_class[one.objects.classes[counted]] = 0.0
    value = float("nan") if np.isnan(per_class).all() else 0.0
    ends = [f"{name}_{side}" for name in names for side in ("low", "high")] if bootstrap else []
    figures: dict[str, Any] = dict.fromkeys(["AP", *names, *ends], value)
    return {**figures, **dict.fromkeys(("APs", "APm", "APl"), float("nan")), "per_class": per_class}


class MaskEvaluator(DetectionEvaluator):
    """Mask AP on annotated records with masks, under the task ``segm``.

    Figures as :func:`compute_mask_ap`, ``AP-<class>``, and how many ``images`` were evaluated.
    Images without a record (those of a split that nobody has outlined) count in no figure.

    Raises:
        ValueError: another metric or library, or a record without masks.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        ious: Sequence[float] = (0.25, 0.5, 0.7, 0.75),
        metric: str = "coco",
        library: str = "pycocotools",
        bootstrap: int = 0,
        seed: int = 0,
        distributed: bool = True,
    ) -> None:
        super().__init__(records, class_names, distributed=distributed)
        load_library(library)  # before hours of inference, not after
        if metric not in MASK_METRICS:
            raise ValueError(f"TEST.MASK_EVAL is {metric!r}, expected one of {list(MASK_METRICS)}")
        self._truth = [TrueMasks.from_record(r, num_classes=len(class_names)) for r in records]
        self._options: dict[str, Any] = {
            "ious": tuple(ious),
            "metric": metric,
            "library": library,
            "bootstrap": bootstrap,
            "seed": seed,
        }

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep the detections of the images that have true masks."""
        known = set(self.image_ids)
        pairs = [
            pair for pair in zip(inputs, outputs, strict=True) if str(pair[0]["image_id"]) in known
        ]
        super().process([one for one, _ in pairs], [output for _, output in pairs])

    def _detections(self, image_id: str, instances: Any) -> Detections:
        found = with_masks(super()._detections(image_id, instances), instances)
        masks_of(found)
        return found

    def evaluate_rows(
        self, rows: Sequence[Mapping[str, Any]], categories: CategoryMap
    ) -> dict[str, dict[str, float]]:
        """Figures of a COCO results list with ``segmentation``; images without a row are empty."""
        grouped: dict[str, list[Mapping[str, Any]]] = {one: [] for one in self.image_ids}
        for row in rows:
            grouped.setdefault(str(row["image_id"]), []).append(row)
        return self.compute({one: _from_rows(grouped[one], categories) for one in self.image_ids})

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """Mask AP of the split."""
        figures = compute_mask_ap(
            self._truth,
            [detections[image_id] for image_id in self.image_ids],
            num_classes=len(self.class_names),
            **self._options,
        )
        per_class = figures.pop("per_class")
        figures["images"] = float(len(self.image_ids))
        figures |= {
            f"AP-{name}": float(v) for name, v in zip(self.class_names, per_class, strict=True)
        }
        shown = ", ".join(f"{_name(i)} {figures[_name(i)]:.2f}" for i in self._options["ious"])
        logger.info("mask AP %.2f, %s", figures["AP"], shown)
        return {"segm": figures}


def _from_rows(rows: Sequence[Mapping[str, Any]], categories: CategoryMap) -> Detections:
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = tuple(dict(row["segmentation"]) for row in rows if row.get("segmentation"))
    return Detections(
        boxes,
        np.array([row["score"] for row in rows], np.float32),
        np.array([categories.to_contiguous(row["category_id"]) for row in rows], np.int64),
        masks if len(masks) == len(rows) else None,
    )
