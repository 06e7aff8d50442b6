"""Pseudo ground truth of a data set from its detections and image tags."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import CategoryMap, PseudoGroundTruth, sha256_json

from .rules import PseudoGTRule

__all__ = ["PseudoGTReport", "generate_pseudo_gt"]


@dataclass
class PseudoGTReport:
    """What was made of the detections, and what was left out."""

    images: int = 0
    images_without_annotation: int = 0
    annotations: int = 0
    boxes_per_image: float = 0.0
    boxes_per_class: dict[str, int] = field(default_factory=dict)
    skipped_classes: int = 0  # (image, tag) pairs that no detection supports
    untagged_detections: int = 0  # of a class that the image does not have
    degenerate_detections: int = 0  # not finite, or empty after clipping

    def as_dict(self) -> dict[str, Any]:
        """Give the fields, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Detections:
    """Usable detections of one image; boxes float64 XYXY, inside the image."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def generate_pseudo_gt(
    detections: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    category_map: CategoryMap,
    *,
    rule: PseudoGTRule,
    image_root: str | Path | None = None,
    detections_sha256: str = "",
) -> tuple[PseudoGroundTruth, PseudoGTReport]:
    """Turn detections of the training images into a COCO data set.

    Args:
        detections: COCO results (``bbox`` XYWH, ``category_id`` of the data set).
        records: weak records with ``image_labels``; images come out in this order, those without
            an annotation too.
        category_map: classes of both.
        rule: which detections of an image are taken.
        image_root: ``file_name`` is written relative to it; None: the last part of the path.
        detections_sha256: of the file that they came from; "": of the list itself.

    Returns:
        The pseudo ground truth (``write_pseudo_gt`` adds format and counts) and a report. A class
        without a detection gets no box; it is counted in the report.

    Raises:
        ValueError: for a detection of an image that is not among the records, records with boxes,
            and image files that cannot be told apart.

    Source: WeakSAM, Sec. 3.3; weaksam.md, Sec. 6.
    """
    by_image = _group(detections, records)
    report = PseudoGTReport(images=len(records))
    report.boxes_per_class = {name: 0 for name in category_map.names}
    images = _image_entries(records, image_root)
    annotations: list[dict[str, Any]] = []
    for record, entry in zip(records, images, strict=True):
        if "annotations" in record:
            raise ValueError(f"image {record['image_id']!r} brings annotations; use weak records")
        rows = by_image.get(str(record["image_id"]), [])
        found = _read(rows, record, category_map, report)
        made = _annotate(found, record["image_labels"], entry["id"], category_map, rule)
        report.images_without_annotation += not made
        report.skipped_classes += _count_skipped(found, record["image_labels"])
        for annotation in made:
            annotations.append({"id": len(annotations) + 1, **annotation})
            name = category_map.names[category_map.to_contiguous(annotation["category_id"])]
            report.boxes_per_class[name] += 1
    report.annotations = len(annotations)
    report.boxes_per_image = len(annotations) / max(1, len(records))
    info = {
        "rule": rule.name,
        "parameters": rule.parameters(),
        "detections_sha256": detections_sha256 or sha256_json(list(detections)),
    }
    categories = category_map.categories()
    return PseudoGroundTruth(images, annotations, categories, {"weaksam": info}), report


def _group(
    detections: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    known = {str(record["image_id"]) for record in records}
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for detection in detections:
        groups.setdefault(str(detection["image_id"]), []).append(detection)
    foreign = sorted(groups.keys() - known)
    if foreign:
        raise ValueError(
            f"{len(foreign)} images of the detections are not in the data set, such as "
            f"{foreign[:3]}; detect on the split that DATASETS.TRAIN names"
        )
    return groups


def _image_entries(
    records: Sequence[Mapping[str, Any]], image_root: str | Path | None
) -> list[dict[str, Any]]:
    entries = []
    for record in records:
        path = Path(record["file_name"])
        if image_root is None:
            name = path.name
        elif path.is_relative_to(image_root):
            name = path.relative_to(image_root).as_posix()
        else:
            raise ValueError(f"image file {str(path)!r} is not below {str(image_root)!r}")
        size = {"height": record["height"], "width": record["width"]}
        entries.append({"id": record["image_id"], "file_name": name, **size})
    if len({entry["file_name"] for entry in entries}) < len(entries):
        raise ValueError("two images have the same file name; name their folder as image_root")
    return entries


def _read(
    rows: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    category_map: CategoryMap,
    report: PseudoGTReport,
) -> _Detections:
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    scores = np.array([row["score"] for row in rows], dtype=np.float64)
    classes = np.array(
        [category_map.to_contiguous(row["category_id"]) for row in rows], dtype=np.int64
    )
    boxes[:, 2:] += boxes[:, :2]
    limits = np.array([record["width"], record["height"]] * 2, dtype=np.float64)
    boxes = np.minimum(np.maximum(boxes, 0.0), limits)
    usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    usable &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    tagged = np.isin(classes, np.array(record["image_labels"], dtype=np.int64))
    report.degenerate_detections += int((~usable).sum())
    report.untagged_detections += int((usable & ~tagged).sum())
    keep = usable & tagged
    return _Detections(boxes[keep], scores[keep], classes[keep])


def _count_skipped(found: _Detections, image_labels: Sequence[int]) -> int:
    return len(set(image_labels) - set(found.classes.tolist()))


def _annotate(
    found: _Detections,
    image_labels: Sequence[int],
    image_id: Any,
    category_map: CategoryMap,
    rule: PseudoGTRule,
) -> list[dict[str, Any]]:
    selection = rule(found.boxes, found.scores, found.classes, image_labels)
    annotations = []
    for index, score_norm in zip(selection.index, selection.score_norm, strict=True):
        x1, y1, x2, y2 = found.boxes[index].tolist()
        annotations.append(
            {
                "image_id": image_id,
                "category_id": category_map.to_dataset(int(found.classes[index])),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": float(found.scores[index]),
                "score_norm": float(score_norm),
                "source": "wsod",
            }
        )
    return annotations
