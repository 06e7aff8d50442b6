"""True masks of an image, and detected ones matched with them as VOC does boxes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from weaksam_d2.evaluation.collect import Detections, GroundTruth
from weaksam_d2.evaluation.voc import ClassMatches
from weaksam_d2.ops import to_rle

__all__ = ["TrueMasks", "masks_of", "match_masks"]

Rle = dict[str, Any]


@dataclass(frozen=True)
class TrueMasks:
    """Objects of one image and their masks, each a compressed COCO RLE."""

    objects: GroundTruth
    masks: tuple[Rle, ...]

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, num_classes: int) -> "TrueMasks":
        """Read an annotated record; ``segmentation`` may be polygons or any kind of RLE.

        Raises:
            ValueError: an object without a mask; names the image.
        """
        size = (int(record["height"]), int(record["width"]))
        masks = []
        for row in record.get("annotations", ()):
            if not row.get("segmentation"):
                raise ValueError(
                    f"an object of image {record['image_id']!r} has no segmentation; mask AP needs "
                    "a data set with true masks (mask_evaluation_name in its metadata)"
                )
            masks.append(to_rle(row["segmentation"], size))
        truth = GroundTruth.from_record(record, num_classes=num_classes)
        return cls(replace(truth, size=size), tuple(masks))


def match_masks(
    truth: Sequence[TrueMasks],
    detections: Sequence[Detections],
    *,
    num_classes: int,
    iou_thresh: float,
) -> list[ClassMatches]:
    """Match masks of each class as VOC does boxes: by falling score, to the best object.

    A detection whose best object has IoU at or above the threshold takes it; taken before, it is
    false. On a difficult object, or with that share of it inside a crowd region where no object
    fits, it counts neither way. Ties of scores go by image, then by the order in it.
    """
    result = []
    for cls in range(num_classes):
        parts = [
            _match_image(*_of_class(one, found, cls), iou_thresh)
            for one, found in zip(truth, detections, strict=True)
        ]
        scores = np.concatenate([np.zeros(0, np.float32), *(part[0] for part in parts)])
        order = np.argsort(-scores, kind="stable")
        image = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        hit, false = (
            np.concatenate([np.zeros(0, bool), *(part[k] for part in parts)])[order] for k in (1, 2)
        )
        positives = np.array([part[3] for part in parts], np.int64)
        result.append(ClassMatches(image[order], hit, false, positives))
    return result


def _of_class(
    truth: TrueMasks, found: Detections, cls: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores by falling order, IoU (n, g) of the masks, and which objects count, bool (g,)."""
    rows = np.flatnonzero(found.classes == cls)
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    objects = np.flatnonzero(truth.objects.classes == cls)
    counted = ~(truth.objects.difficult | truth.objects.crowd)[objects]
    iou = np.zeros((len(rows), len(objects)))
    if iou.size:
        iou = coco_mask.iou(
            [masks_of(found)[i] for i in rows.tolist()],
            [truth.masks[i] for i in objects.tolist()],
            truth.objects.crowd[objects].astype(np.uint8).tolist(),
        )
    return found.scores[rows], np.asarray(iou), counted


def _match_image(
    scores: np.ndarray, iou: np.ndarray, counted: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    hit, false = np.zeros(len(scores), bool), np.zeros(len(scores), bool)
    taken = np.zeros(len(counted), bool)
    for row in range(len(scores)):
        best = _best(iou[row], counted, threshold)
        if best < 0 or (counted[best] and taken[best]):
            false[row] = True
        elif counted[best]:
            hit[row] = taken[best] = True
    return scores, hit, false, int(counted.sum())


def _best(iou: np.ndarray, counted: np.ndarray, threshold: float) -> int:
    """The object that a mask is compared with: the best that counts, else the best ignored one."""
    for kind in (counted, ~counted):
        places = np.flatnonzero(kind)
        if len(places) and iou[places].max() >= threshold:
            return int(places[iou[places].argmax()])
    return -1


def masks_of(found: Detections) -> tuple[Rle, ...]:
    """The masks of detections. Raises ValueError where there are none."""
    if found.masks is None:
        raise ValueError(
            "detections have no masks: the detector needs MODEL.MASK_ON, a file of detections "
            "tools/generate_instance_masks.py"
        )
    return found.masks
