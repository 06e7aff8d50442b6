"""Which program computes COCO figures, fed with records in memory."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from weaksam_d2.evaluation.collect import Detections, GroundTruth
from weaksam_d2.evaluation.mask_matching import masks_of
from weaksam_d2.evaluation.voc import ClassMatches

__all__ = ["COCO_LIBRARIES", "coco_evaluation", "coco_matches", "load_library"]

COCO_LIBRARIES = ("pycocotools", "faster")


def load_library(name: str) -> tuple[Any, Any]:
    """The ``COCO`` and ``COCOeval`` classes of ``TEST.COCO_EVAL``.

    Raises:
        ValueError: another name. ImportError: faster-coco-eval is not installed.
    """
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    if name != "faster":
        raise ValueError(f"TEST.COCO_EVAL is {name!r}, expected one of {list(COCO_LIBRARIES)}")
    try:
        from faster_coco_eval import COCO as FasterCOCO
        from faster_coco_eval import COCOeval_faster
    except ImportError as error:
        raise ImportError(
            "TEST.COCO_EVAL 'faster' needs the package faster-coco-eval: "
            "pip install 'weaksam_d2[fasteval]', or set it to 'pycocotools'"
        ) from error
    return FasterCOCO, COCOeval_faster


def coco_evaluation(
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    library: str = "pycocotools",
    masks: Sequence[Sequence[dict[str, Any]]] | None = None,
) -> Any:
    """An evaluation of boxes, ready for ``evaluate()``, in which difficult objects are ignored.

    Both sequences hold one entry for each image; images and classes are numbered from 1. There
    must be one detection or more: COCO's loader refuses an empty list. With ``masks``, the true
    ones of each image as compressed RLE, the masks of the detections are evaluated instead.
    """
    dataset_class, evaluation_class = load_library(library)

    class DifficultIgnored(evaluation_class):  # type: ignore[misc, valid-type]
        """An object may be ignored without being a crowd."""

        def _prepare(self) -> None:
            super()._prepare()
            # The parent derives "ignore" from iscrowd alone, which would change the overlap too.
            for entry in self.cocoGt.anns.values():
                entry["ignore"] = int(entry["iscrowd"] or entry["difficult"])

    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = dataset_class()
        ground_truth.dataset = _annotations(truth, num_classes)
        rows = _results(detections)
        if masks is not None:
            _set_masks(ground_truth.dataset, rows, masks, truth, detections)
        ground_truth.createIndex()
        found = ground_truth.loadRes(rows)
        return DifficultIgnored(ground_truth, found, "bbox" if masks is None else "segm")


def _set_masks(
    dataset: dict[str, Any],
    rows: list[dict[str, Any]],
    masks: Sequence[Sequence[dict[str, Any]]],
    truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
) -> None:
    """Give both sides their masks; a size counts by the pixels of the mask, not of the box."""
    for image, one in zip(dataset["images"], truth, strict=True):
        image["height"], image["width"] = one.size
    true = [mask for image in masks for mask in image]
    for entry, mask in zip(dataset["annotations"], true, strict=True):
        entry.update(segmentation=dict(mask), area=float(coco_mask.area(mask)))
    found = [mask for one in detections for mask in masks_of(one)]
    for row, mask in zip(rows, found, strict=True):
        del row["bbox"]  # the loader would take the area from it
        row["segmentation"] = dict(mask)


def coco_matches(evaluation: Any) -> list[list[ClassMatches]]:
    """Judged detections of each IoU threshold and class, from pycocotools after ``evaluate()``.

    All areas, at most 100 detections of a class in an image.
    """
    params = evaluation.params
    images, areas = len(params.imgIds), len(params.areaRng)
    classes = [
        evaluation.evalImgs[start : start + images]
        for start in range(0, len(evaluation.evalImgs), areas * images)
    ]
    return [
        [_class_matches(rows, threshold) for rows in classes]
        for threshold in range(len(params.iouThrs))
    ]


def _class_matches(rows: Sequence[dict[str, Any] | None], threshold: int) -> ClassMatches:
    scores = [np.array([] if row is None else row["dtScores"], np.float64) for row in rows]
    empty = np.zeros(0)
    matched = [empty if row is None else row["dtMatches"][threshold] for row in rows]
    ignored = [empty if row is None else row["dtIgnore"][threshold] for row in rows]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.concatenate(matched)[order] > 0
    counted = ~np.concatenate(ignored)[order].astype(bool)
    return ClassMatches(
        np.repeat(np.arange(len(rows)), [len(one) for one in scores])[order],
        hit & counted,
        ~hit & counted,
        np.array([0 if r is None else int((np.array(r["gtIgnore"]) == 0).sum()) for r in rows]),
    )


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": number,
            "category_id": int(cls) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": float(score),
        }
        for number, one in enumerate(detections, start=1)
        for (x1, y1, x2, y2), score, cls in zip(
            one.boxes.astype(np.float64), one.scores, one.classes, strict=True
        )
    ]


def _annotations(truth: Sequence[GroundTruth], num_classes: int) -> dict[str, Any]:
    """A COCO data set; images, classes and objects are numbered from 1."""
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(truth, start=1):
        sides = one.boxes[:, 2:].astype(np.float64) - one.boxes[:, :2]
        for row, (width, height) in enumerate(sides.tolist()):
            x, y = one.boxes[row, :2].tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(one.classes[row]) + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(one.crowd[row]),
                    "difficult": bool(one.difficult[row]),
                }
            )
    return {
        "info": {},
        "images": [{"id": number + 1} for number in range(len(truth))],
        "categories": [{"id": cls + 1, "name": str(cls)} for cls in range(num_classes)],
        "annotations": annotations,
    }
