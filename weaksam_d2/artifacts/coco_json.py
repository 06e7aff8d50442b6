"""COCO JSON files: detections, and pseudo ground truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts.coco_checks import (
    check_annotation,
    check_detection,
    check_info,
    rle_runs,
)
from weaksam_d2.artifacts.io import ArtifactError, atomic_write, dump_json, read_json
from weaksam_d2.artifacts.pseudo_gt_writer import (
    PSEUDO_GT_FORMAT,
    PseudoGTWriter,
    check_mask_count,
    distinct_ids,
)

__all__ = [
    "PSEUDO_GT_FORMAT",
    "PseudoGroundTruth",
    "read_detections",
    "read_pseudo_gt",
    "rle_runs",
    "write_detections",
    "write_pseudo_gt",
]


@dataclass
class PseudoGroundTruth:
    """A COCO data set of pseudo boxes: bbox XYWH in pixels, category ids of the data set.

    ``info["weaksam"]`` holds ``rule``, ``parameters`` and ``detections_sha256``; annotations may
    hold ``score``, ``score_norm``, ``source``, ``fallback`` and an RLE ``segmentation``.
    """

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    info: dict[str, Any]


def read_detections(path: Path) -> list[dict[str, Any]]:
    """Read a COCO results list.

    Rows are {"image_id", "category_id", "bbox" XYWH, "score"} with an optional RLE
    "segmentation"; ids keep the type that they have in the file.

    Raises:
        ArtifactError: not a list, or a row with a wrong id, box or score; names file and row.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise ArtifactError(f"{path} must hold a list of detections, got {type(content).__name__}")
    try:
        return [check_detection(f"row {number}", row) for number, row in enumerate(content)]
    except ValueError as error:
        raise ArtifactError(f"{path}, {error}") from error


def write_detections(
    path: Path,
    detections: Sequence[dict[str, Any]],
    *,
    image_order: Sequence[int | str] | None = None,
) -> None:
    """Write a COCO results list, sorted by image, then by falling score; ties keep their order.

    Images come in ``image_order``, by default in the order of their first row. Floats are
    written in full precision.

    Raises:
        ValueError: a row with a wrong id, box or score, or an image that is not in
            ``image_order``; names file and row.
    """
    order: dict[int | str, int] = {}
    for image_id in image_order if image_order is not None else ():
        order.setdefault(image_id, len(order))
    rows = []
    for number, row in enumerate(detections):
        try:
            checked = check_detection(f"row {number}", row)
        except ValueError as error:
            raise ValueError(f"cannot write {path}, {error}") from error
        image_id = checked["image_id"]
        if image_order is not None and image_id not in order:
            raise ValueError(
                f"cannot write {path}, row {number}: image_id {image_id!r} is not in image_order "
                "(ids keep the data set's type, int or str)"
            )
        order.setdefault(image_id, len(order))
        rows.append(checked)
    rows.sort(key=lambda row: (order[row["image_id"]], -row["score"]))
    with atomic_write(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write("[")
        for number, row in enumerate(rows):
            file.write((",\n" if number else "\n") + dump_json(row))
        file.write("\n]\n" if rows else "]\n")


def _checked_annotations(pgt: PseudoGroundTruth) -> list[dict[str, Any]]:
    """Annotations with ids from 1, float boxes, text RLE and area."""
    images, categories = distinct_ids(pgt.images, pgt.categories)
    _check_mask_count(pgt)
    return [
        check_annotation(number, row, images, categories)
        for number, row in enumerate(pgt.annotations)
    ]


def _check_mask_count(pgt: PseudoGroundTruth) -> None:
    with_masks = sum(row.get("segmentation") is not None for row in pgt.annotations)
    check_mask_count(with_masks, len(pgt.annotations))


def write_pseudo_gt(path: Path, pgt: PseudoGroundTruth) -> None:
    """Write pseudo ground truth as a COCO data set that any COCO reader accepts.

    Ids are numbered from 1 in the given order; ``area`` (the mask's pixels, else the box's),
    ``iscrowd`` 0, and ``format`` and ``counts`` of ``info["weaksam"]`` are set here. ``pgt`` is
    not changed.

    Raises:
        ValueError: an unknown image or category, a wrong box, a segmentation on some annotations
            only, or an incomplete ``info["weaksam"]``; names file and annotation.
    """
    try:
        _check_mask_count(pgt)
    except ValueError as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    with PseudoGTWriter(path, images=pgt.images, categories=pgt.categories) as writer:
        for annotation in pgt.annotations:
            writer.add(annotation)
        writer.finish(pgt.info)


def read_pseudo_gt(path: Path) -> PseudoGroundTruth:
    """Read what `write_pseudo_gt` wrote.

    Raises:
        ArtifactError: another format, or inconsistent content; names file and annotation.
    """
    content = read_json(path)
    fields = ("images", "annotations", "categories", "info")
    if not isinstance(content, dict) or any(name not in content for name in fields):
        raise ArtifactError(f"{path} must be a COCO data set with {', '.join(fields)}")
    try:
        found = check_info(content["info"]).get("format")
        if found != PSEUDO_GT_FORMAT:
            raise ValueError(f"its format is {found!r}, expected {PSEUDO_GT_FORMAT!r}")
        pgt = PseudoGroundTruth(**{name: content[name] for name in fields})
        checked = _checked_annotations(pgt)
        for number, (row, new) in enumerate(zip(pgt.annotations, checked, strict=True)):
            if row.get("id") != new["id"]:
                raise ValueError(f"annotation {number} has id {row.get('id')!r}, not {new['id']}")
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {error}") from error
    return pgt
