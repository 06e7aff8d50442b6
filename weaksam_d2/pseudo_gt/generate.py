"""Pseudo ground truth of a data set from its detections and image tags."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import CategoryMap, PseudoGroundTruth, PseudoGTWriter, sha256_json
from weaksam_d2.ops.fusion import Fused
from weaksam_d2.ops.pseudo_gt import usable_detections

from .fusion import FusionSettings, fuse_detections
from .rules import PseudoGTRule
from .statistics import PseudoGTCounter, PseudoGTReport

__all__ = ["generate_pseudo_gt", "stream_pseudo_gt"]

Rows = Sequence[Mapping[str, Any]]
Source = Mapping[str, Rows]  # one detector's rows of each image

# A batch ends with the image that reaches one of these; it bounds memory, not the result.
_BATCH_ROWS, _BATCH_IMAGES = 10_000, 1_000


@dataclass
class _Batch:
    """Some images and the rows of all their detections: by image, then by detector."""

    first: int  # place of its first image in the data set
    records: list[Mapping[str, Any]] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    image: list[int] = field(default_factory=list)  # of each row, from 0
    detector: list[int] = field(default_factory=list)


def generate_pseudo_gt(
    detections: Rows,
    records: Rows,
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
    counter = PseudoGTCounter(category_map.names)
    images = _image_entries(records, image_root)
    sources = [_group(detections)]
    made = _annotations(sources, records, category_map, rule, FusionSettings(), counter)
    annotations = [{"id": number, **row} for number, row in enumerate(made, start=1)]
    report = counter.report()
    info = {
        "rule": rule.name,
        "parameters": rule.parameters(),
        "detections_sha256": detections_sha256 or sha256_json(list(detections)),
        "statistics": report.as_dict(),
    }
    categories = category_map.categories()
    return PseudoGroundTruth(images, annotations, categories, {"weaksam": info}), report


def stream_pseudo_gt(
    path: Path,
    sources: Sequence[Source],
    records: Rows,
    category_map: CategoryMap,
    *,
    rule: PseudoGTRule,
    provenance: Sequence[Mapping[str, Any]],
    fusion: FusionSettings | None = None,
    image_root: str | Path | None = None,
) -> PseudoGTReport:
    """Write the pseudo ground truth of one or more detectors, a batch of images at a time.

    Args:
        path: the file to write.
        sources: for each detector its COCO results by image id, such as ``DetectionsFile``.
        provenance: for each detector what made its file (:func:`describe_detections`).
        fusion: how several detectors are joined; None: their lists one after the other.

    Other arguments, the report and errors are those of :func:`generate_pseudo_gt`. Memory is that
    of the records and of one batch, and eight bytes for a box.

    Raises:
        ValueError: also for settings of ``fusion`` that do not fit the sources.
    """
    fusion = fusion or FusionSettings()
    fusion.check(len(sources))
    counter = PseudoGTCounter(category_map.names)
    images = _image_entries(records, image_root)
    categories = category_map.categories()
    with PseudoGTWriter(path, images=images, categories=categories) as writer:
        for row in _annotations(sources, records, category_map, rule, fusion, counter):
            writer.add(row)
        report = counter.report()
        hashes = [entry["sha256"] for entry in provenance]
        info = {
            "rule": rule.name,
            "parameters": rule.parameters(),
            "detections_sha256": hashes[0] if len(hashes) == 1 else sha256_json(hashes),
            "detections": [dict(entry) for entry in provenance],
            "statistics": report.as_dict(),
        }
        if len(sources) > 1 or fusion != FusionSettings():
            info["fusion"] = fusion.parameters()
        writer.finish({"weaksam": info})
    return report


def _group(detections: Rows) -> dict[str, list[Mapping[str, Any]]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for detection in detections:
        groups.setdefault(str(detection["image_id"]), []).append(detection)
    return groups


def _image_entries(records: Rows, image_root: str | Path | None) -> list[dict[str, Any]]:
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


def _annotations(
    sources: Sequence[Source],
    records: Rows,
    category_map: CategoryMap,
    rule: PseudoGTRule,
    fusion: FusionSettings,
    counter: PseudoGTCounter,
) -> Iterator[dict[str, Any]]:
    _check(sources, records)
    classes = len(category_map)
    for batch in _batches(sources, records):
        tags = [i * classes + tag for i, r in enumerate(batch.records) for tag in r["image_labels"]]
        tagged = np.unique(np.array(tags, dtype=np.int64))
        found = _read(batch, category_map, tagged, counter, fusion, len(sources))
        selection = rule(found.boxes, found.scores, found.groups, tagged)
        index = selection.index
        chosen, scores = found.groups[index], found.scores[index]
        counter.add(len(batch.records), tagged, found.groups, chosen, scores)
        columns = (found.boxes[index], scores, selection.score_norm, chosen // classes)
        labels = chosen % classes
        for box, score, norm, image, label in zip(
            *(column.tolist() for column in (*columns, labels)), strict=True
        ):
            image_id = batch.records[image]["image_id"]
            yield _annotation(image_id, category_map.to_dataset(label), box, score, norm)


def _annotation(
    image_id: Any, category_id: int, box: Sequence[float], score: float, score_norm: float
) -> dict[str, Any]:
    x1, y1, x2, y2 = box
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": 0,
        "score": score,
        "score_norm": score_norm,
        "source": "wsod",
    }


def _check(sources: Sequence[Source], records: Rows) -> None:
    known = {str(record["image_id"]) for record in records}
    foreign = sorted({image for source in sources for image in source} - known)
    if foreign:
        raise ValueError(
            f"{len(foreign)} images of the detections are not in the data set, such as "
            f"{foreign[:3]}; detect on the split that DATASETS.TRAIN names"
        )
    for record in records:
        if "annotations" in record:
            raise ValueError(f"image {record['image_id']!r} brings annotations; use weak records")


def _batches(sources: Sequence[Source], records: Rows) -> Iterator[_Batch]:
    batch = _Batch(0)
    for place, record in enumerate(records):
        image_id = str(record["image_id"])
        for detector, source in enumerate(sources):
            rows = source.get(image_id, ())
            batch.rows.extend(rows)
            batch.image += [len(batch.records)] * len(rows)
            batch.detector += [detector] * len(rows)
        batch.records.append(record)
        if len(batch.rows) >= _BATCH_ROWS or len(batch.records) >= _BATCH_IMAGES:
            yield batch
            batch = _Batch(place + 1)
    if batch.records:
        yield batch


def _read(
    batch: _Batch,
    category_map: CategoryMap,
    tagged: np.ndarray,
    counter: PseudoGTCounter,
    fusion: FusionSettings,
    detectors: int,
) -> Fused:
    """Usable detections of the tags, float64 XYXY inside their images; groups are pairs."""
    boxes = np.array([row["bbox"] for row in batch.rows], dtype=np.float64).reshape(-1, 4)
    scores = np.array([row["score"] for row in batch.rows], dtype=np.float64)
    labels = [category_map.to_contiguous(row["category_id"]) for row in batch.rows]
    image = np.array(batch.image, dtype=np.int64)
    pairs = image * len(category_map) + np.array(labels, dtype=np.int64)
    sizes = np.array([[r["width"], r["height"]] * 2 for r in batch.records], dtype=np.float64)
    boxes[:, 2:] += boxes[:, :2]
    boxes = np.minimum(np.maximum(boxes, 0.0), sizes.reshape(-1, 4)[image])
    usable = usable_detections(boxes, scores)
    keep = usable & np.isin(pairs, tagged)
    counter.leave_out(degenerate=int((~usable).sum()), untagged=int((usable & ~keep).sum()))
    detector = np.array(batch.detector, dtype=np.int64)[keep]
    return fuse_detections(
        boxes[keep], scores[keep], pairs[keep], detector, detectors=detectors, settings=fusion
    )
