"""Detections of a split written as one COCO results file."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import CategoryMap, write_detections
from weaksam_d2.evaluation.collect import DetectionEvaluator, Detections
from weaksam_d2.ops import encode_rle

__all__ = ["DetectionsWriter", "detection_entries", "with_masks"]

logger = logging.getLogger(__name__)


def detection_entries(
    image_id: Any, detections: Detections, categories: CategoryMap
) -> list[dict[str, Any]]:
    """COCO results of one image, in the order given: dataset category ids, XYWH in pixels.

    Numbers keep full precision; ``image_id`` keeps its type. Masks are ``segmentation``.
    """
    entries: list[dict[str, Any]] = []
    boxes, scores = detections.boxes.tolist(), detections.scores.tolist()
    for (x1, y1, x2, y2), score, cls in zip(
        boxes, scores, detections.classes.tolist(), strict=True
    ):
        entries.append(
            {
                "image_id": image_id,
                "category_id": categories.to_dataset(cls),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )
    for entry, mask in zip(entries, detections.masks or (), strict=detections.masks is not None):
        entry["segmentation"] = mask
    return entries


def with_masks(found: Detections, instances: Any) -> Detections:
    """The detections with their masks as RLE, if ``instances`` has ``pred_masks`` (n, H, W)."""
    if not instances.has("pred_masks"):
        return found
    masks = instances.pred_masks.cpu()
    size = [int(side) for side in masks.shape[1:]]
    counts = [code.decode("ascii") for code in encode_rle(masks)]
    return replace(found, masks=tuple({"size": size, "counts": code} for code in counts))


class DetectionsWriter(DetectionEvaluator):
    """Writes the detections of all ranks to one file; gives no figure.

    ``records`` fix order and type of the image ids, ``categories`` the ids in the file. Masks of
    a detector that has them (``pred_masks``, bool (n, H, W)) are written as well.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        categories: CategoryMap,
        path: Path,
        *,
        distributed: bool = True,
    ) -> None:
        super().__init__(records, categories.names, distributed=distributed)
        self._categories = categories
        self._path = Path(path)
        self._original = {str(record["image_id"]): record["image_id"] for record in records}

    def _detections(self, image_id: str, instances: Any) -> Detections:
        return with_masks(super()._detections(image_id, instances), instances)

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """Write the file, sorted by image in order of the split, then by falling score."""
        entries = [
            entry
            for image_id, one in detections.items()
            for entry in detection_entries(self._original[image_id], one, self._categories)
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_detections(self._path, entries)
        logger.info(
            "%d detections of %d images in %s", len(entries), len(detections), self._path.name
        )
        return {}
