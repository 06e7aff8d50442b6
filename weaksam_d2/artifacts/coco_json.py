"""COCO JSON files: detections, and pseudo ground truth."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts.io import ArtifactError, atomic_write, dump_json, read_json

PSEUDO_GT_FORMAT = "weaksam_d2.pseudo_gt/1"


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


def rle_runs(counts: bytes | str) -> list[int]:
    """Run lengths of compressed COCO RLE counts, background first.

    Each number is a string of 5-bit groups, low group first, offset by 48; bit 5 says that more
    follow, and from the fourth number on it is the difference to the number two before (COCO's
    mask format).

    Raises:
        ValueError: the counts end within a number.
    """
    data = counts.encode("ascii") if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        group = byte - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift  # sign bit of the last group
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError(f"RLE counts end within a number: {counts!r:.60}")
    return runs


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _check_box(place: str, bbox: Any, *, positive: bool) -> list[float]:
    values = list(bbox) if isinstance(bbox, Iterable) and not isinstance(bbox, str) else []
    if len(values) != 4 or not all(_number(value) for value in values):
        raise ValueError(f"{place}: bbox must be 4 finite numbers [x, y, w, h], got {bbox!r}")
    if min(values[2:]) < 0 or (positive and min(values[2:]) <= 0):
        raise ValueError(
            f"{place}: bbox must have a {'' if positive else 'non-negative '}width "
            f"and height{' above 0' if positive else ''}, got {bbox!r}"
        )
    return [float(value) for value in values]


def _checked_ids(place: str, row: dict[str, Any]) -> dict[str, Any]:
    """``image_id`` (int or str, as the data set has it) and ``category_id`` (int)."""
    image_id, category_id = row.get("image_id"), row.get("category_id")
    if not isinstance(image_id, (Integral, str)) or isinstance(image_id, bool):
        raise ValueError(f"{place}: image_id must be int or str, got {image_id!r}")
    if not isinstance(category_id, Integral) or isinstance(category_id, bool):
        raise ValueError(f"{place}: category_id must be int, got {category_id!r}")
    plain = image_id if isinstance(image_id, str) else int(image_id)
    return {"image_id": plain, "category_id": int(category_id)}


def _check_segmentation(place: str, segmentation: Any) -> dict[str, Any]:
    """RLE as JSON takes it: {"size": [h, w], "counts": str}."""
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 2
        or not isinstance(counts, (str, bytes))
    ):
        raise ValueError(
            f"{place}: segmentation must be a compressed RLE with size and counts, "
            f"got {segmentation!r:.80}"
        )
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in size], "counts": text}


def _check_detection(place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be an object, got {row!r:.60}")
    ids = _checked_ids(place, row)
    bbox = _check_box(place, row.get("bbox"), positive=False)
    if not _number(row.get("score")):
        raise ValueError(f"{place}: score must be a finite number, got {row.get('score')!r}")
    checked = {**row, **ids, "bbox": bbox, "score": float(row["score"])}
    if row.get("segmentation") is not None:
        checked["segmentation"] = _check_segmentation(place, row["segmentation"])
    return checked


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
        return [_check_detection(f"row {number}", row) for number, row in enumerate(content)]
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
            checked = _check_detection(f"row {number}", row)
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
    images = {row["id"] for row in pgt.images}
    categories = {row["id"] for row in pgt.categories}
    if len(images) != len(pgt.images) or len(categories) != len(pgt.categories):
        raise ValueError("images and categories must have distinct ids")
    with_masks = sum(row.get("segmentation") is not None for row in pgt.annotations)
    if with_masks not in (0, len(pgt.annotations)):
        raise ValueError(
            f"{with_masks} of {len(pgt.annotations)} annotations have a segmentation: give it to "
            "all or to none"
        )
    checked = []
    for number, row in enumerate(pgt.annotations):
        place = f"annotation {number}"
        ids = _checked_ids(place, row)
        if ids["image_id"] not in images:
            raise ValueError(f"{place}: image_id {ids['image_id']!r} is not among the images")
        if ids["category_id"] not in categories:
            raise ValueError(f"{place}: category_id {ids['category_id']} is not a category")
        bbox = _check_box(place, row.get("bbox"), positive=True)
        new = {"id": number + 1, **row, **ids, "bbox": bbox}
        new.update(id=number + 1, area=bbox[2] * bbox[3], iscrowd=0)
        if with_masks:
            new["segmentation"] = _check_segmentation(place, row["segmentation"])
            new["area"] = _mask_area(place, new["segmentation"])
        checked.append(new)
    return checked


def _mask_area(place: str, segmentation: dict[str, Any]) -> int:
    runs = rle_runs(segmentation["counts"])
    height, width = segmentation["size"]
    if sum(runs) != height * width or min(runs, default=-1) < 0:
        raise ValueError(
            f"{place}: the segmentation covers {sum(runs)} pixels, expected {height} x {width}"
        )
    return sum(runs[1::2])


def _check_info(info: Any) -> dict[str, Any]:
    block = info.get("weaksam") if isinstance(info, dict) else None
    needed = ("rule", "parameters", "detections_sha256")
    if not isinstance(block, dict) or any(name not in block for name in needed):
        raise ValueError(f"info['weaksam'] must hold {', '.join(needed)}, got {block!r:.80}")
    return block


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
        annotations = _checked_annotations(pgt)
        block = _check_info(pgt.info)
    except (KeyError, ValueError) as error:
        raise ValueError(f"cannot write {path}: {error}") from error
    annotated = {row["image_id"] for row in annotations}
    counts = {
        "images": len(pgt.images),
        "annotations": len(annotations),
        "images_without_annotation": sum(row["id"] not in annotated for row in pgt.images),
    }
    weaksam = {**block, "format": PSEUDO_GT_FORMAT, "counts": counts}
    fields = {
        "info": [{**pgt.info, "weaksam": weaksam}],
        "images": pgt.images,
        "categories": pgt.categories,
        "annotations": annotations,
    }
    with atomic_write(Path(path)) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for number, (name, rows) in enumerate(fields.items()):
            file.write(("{" if number == 0 else ",") + f'\n"{name}": ')
            text = ",\n".join(dump_json(row) for row in rows)
            file.write(text if name == "info" else f"[\n{text}\n]" if rows else "[]")
        file.write("\n}\n")


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
        found = _check_info(content["info"]).get("format")
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
