"""Masks for all boxes of a data set: pseudo ground truth for training, detections for a test."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from weaksam_d2.artifacts import ProposalStore, PseudoGroundTruth
from weaksam_d2.data import read_image
from weaksam_d2.pseudo_gt.masks import BoxMasks, MaskSettings, boxes_to_masks, stored_masks
from weaksam_d2.sam import SamBackend

__all__ = ["MaskCounts", "check_pseudo_boxes", "generate_masks", "part_of"]

logger = logging.getLogger(__name__)

Rows = Sequence[Mapping[str, Any]]
MOSTLY_OUTSIDE = 0.5  # a smaller share of the mask lies in its box: kept, and counted


@dataclass
class MaskCounts:
    """What became of the boxes; ``encoded`` images went through SAM's image encoder."""

    images: int = 0
    annotations: int = 0
    encoded: int = 0
    reused: int = 0
    fallback: int = 0
    mostly_outside: int = 0

    def counts(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def check_pseudo_boxes(truth: PseudoGroundTruth, path: Any) -> None:
    """Refuse boxes that no detector gave: each annotation must have a ``score``.

    Raises:
        ValueError: names the file and the annotation. Source: weaksam.md, Sec. 14.15.
    """
    for annotation in truth.annotations:
        if "score" not in annotation:
            raise ValueError(
                f"'{path}': annotation {annotation.get('id')} has no score, so its box is no "
                "detection; give a file of tools/generate_pseudo_gt.py, never true boxes"
            )


def part_of(truth: PseudoGroundTruth, records: Rows) -> PseudoGroundTruth:
    """The images of some records and their annotations, in the order of the file."""
    wanted = {str(record["image_id"]) for record in records}
    return PseudoGroundTruth(
        [image for image in truth.images if str(image["id"]) in wanted],
        [row for row in truth.annotations if str(row["image_id"]) in wanted],
        truth.categories,
        truth.info,
    )


def generate_masks(
    records: Iterable[Mapping[str, Any]],
    rows: Mapping[str, Rows],
    backend: Callable[[], SamBackend],
    *,
    settings: MaskSettings,
    counts: MaskCounts,
    stored: ProposalStore | None = None,
    read_image: Callable[..., np.ndarray] = read_image,
    on_progress: Callable[[int], Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of each record with a ``segmentation``, images in the order of the records.

    Args:
        records: images; nothing but file, id and size is used.
        rows: COCO annotations or results by image id, ``bbox`` XYWH in pixels.
        backend: gives the SAM backend; called when an image is first encoded.
        counts: is added to.
        stored: proposals with masks, taken where they hold a mask of a row's box.

    An image is encoded once, all its boxes are decoded in one batch, and one without a box to
    decode is not read. A row with an empty mask has the filled box and ``fallback`` True.

    Raises:
        DamagedImageError: an image that cannot be read; boxes came from it, so it has changed.
        ValueError: an image of another size than its record says.
    """
    for record in records:
        image_id = str(record["image_id"])
        given = rows.get(image_id, ())
        counts.images += 1
        if given:
            known = None if stored is None else stored[image_id]
            yield from _with_masks(record, given, known, backend, settings, counts, read_image)
        if on_progress is not None:
            on_progress(1)


def _with_masks(
    record: Mapping[str, Any],
    rows: Rows,
    known: Any,
    backend: Callable[[], SamBackend],
    settings: MaskSettings,
    counts: MaskCounts,
    read: Callable[..., np.ndarray],
) -> Iterator[dict[str, Any]]:
    size = (int(record["height"]), int(record["width"]))
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = boxes.astype(np.float32)
    found, masks = np.zeros(0, np.int64), BoxMasks.join([])
    if known is not None:
        found, masks = stored_masks(boxes, known, settings=settings)
    left = np.setdiff1d(np.arange(len(boxes)), found)
    if len(left):
        sam = backend()
        embedding = sam.encode(_checked_image(record, size, read))
        new = boxes_to_masks(boxes[left], embedding, sam, settings=settings)
        masks = BoxMasks.join([masks, new])
        counts.encoded += 1
    masks = masks.take(np.argsort(np.concatenate([found, left]), kind="stable"))
    counts.annotations += len(rows)
    counts.reused += len(found)
    counts.fallback += int(masks.fallback.sum())
    counts.mostly_outside += int((masks.inside < MOSTLY_OUTSIDE).sum())
    for place, row in enumerate(rows):
        yield _row_with_mask(row, masks, place, size, settings)


def _checked_image(
    record: Mapping[str, Any], size: tuple[int, int], read: Callable[..., np.ndarray]
) -> np.ndarray:
    image = read(record["file_name"], "RGB")
    if image.shape[:2] != size:
        raise ValueError(
            f"image {record['file_name']} is {image.shape[0]} x {image.shape[1]} (height x "
            f"width), the data set says {size[0]} x {size[1]}; correct the data set's record"
        )
    return image


def _row_with_mask(
    row: Mapping[str, Any],
    masks: BoxMasks,
    place: int,
    size: tuple[int, int],
    settings: MaskSettings,
) -> dict[str, Any]:
    new = {
        **row,
        "segmentation": {"size": list(size), "counts": masks.codes[place].decode("ascii")},
    }
    if masks.fallback[place]:
        new["fallback"] = True
    if settings.box == "mask":
        x1, y1, x2, y2 = masks.boxes[place].tolist()
        new.update(bbox=[x1, y1, x2 - x1, y2 - y1], source="sam")
    return new
