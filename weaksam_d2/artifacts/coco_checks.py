"""What COCO JSON rows must be; every check gives the row as it is stored, or names its place."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

__all__ = [
    "check_annotation",
    "check_box",
    "check_detection",
    "check_info",
    "check_segmentation",
    "checked_ids",
    "mask_area",
    "rle_runs",
]


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
    if type(value) is float:  # nearly all are: isinstance with an abstract class is slow
        return math.isfinite(value)
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_box(place: str, bbox: Any, *, positive: bool) -> list[float]:
    """A bbox [x, y, w, h] as floats; ``positive`` asks for an area. ValueError names the place."""
    values = list(bbox) if isinstance(bbox, Iterable) and not isinstance(bbox, str) else []
    if len(values) != 4 or not all(_number(value) for value in values):
        raise ValueError(f"{place}: bbox must be 4 finite numbers [x, y, w, h], got {bbox!r}")
    if min(values[2:]) < 0 or (positive and min(values[2:]) <= 0):
        raise ValueError(
            f"{place}: bbox must have a {'' if positive else 'non-negative '}width "
            f"and height{' above 0' if positive else ''}, got {bbox!r}"
        )
    return [float(value) for value in values]


def checked_ids(place: str, row: dict[str, Any]) -> dict[str, Any]:
    """``image_id`` (int or str, as the data set has it) and ``category_id`` (int)."""
    image_id, category_id = row.get("image_id"), row.get("category_id")
    if not isinstance(image_id, (Integral, str)) or isinstance(image_id, bool):
        raise ValueError(f"{place}: image_id must be int or str, got {image_id!r}")
    if not isinstance(category_id, Integral) or isinstance(category_id, bool):
        raise ValueError(f"{place}: category_id must be int, got {category_id!r}")
    plain = image_id if isinstance(image_id, str) else int(image_id)
    return {"image_id": plain, "category_id": int(category_id)}


def check_segmentation(place: str, segmentation: Any) -> dict[str, Any]:
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


def check_detection(place: str, row: Any) -> dict[str, Any]:
    """A row of a COCO results list with plain numbers. ValueError names the place."""
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be an object, got {row!r:.60}")
    ids = checked_ids(place, row)
    bbox = check_box(place, row.get("bbox"), positive=False)
    if not _number(row.get("score")):
        raise ValueError(f"{place}: score must be a finite number, got {row.get('score')!r}")
    checked = {**row, **ids, "bbox": bbox, "score": float(row["score"])}
    if row.get("segmentation") is not None:
        checked["segmentation"] = check_segmentation(place, row["segmentation"])
    return checked


def mask_area(place: str, segmentation: dict[str, Any]) -> int:
    """Pixels of an RLE that covers its image. ValueError names the place."""
    runs = rle_runs(segmentation["counts"])
    height, width = segmentation["size"]
    if sum(runs) != height * width or min(runs, default=-1) < 0:
        raise ValueError(
            f"{place}: the segmentation covers {sum(runs)} pixels, expected {height} x {width}"
        )
    return sum(runs[1::2])


def check_info(info: Any) -> dict[str, Any]:
    """``info["weaksam"]`` with its needed fields. ValueError says which they are."""
    block = info.get("weaksam") if isinstance(info, dict) else None
    needed = ("rule", "parameters", "detections_sha256")
    if not isinstance(block, dict) or any(name not in block for name in needed):
        raise ValueError(f"info['weaksam'] must hold {', '.join(needed)}, got {block!r:.80}")
    return block


def check_annotation(
    number: int, row: dict[str, Any], images: set[int | str], categories: set[int]
) -> dict[str, Any]:
    """Annotation ``number`` (from 0) of a pseudo ground truth file, ready to be written.

    Its ``id`` is number + 1, ``area`` that of the mask or else of the box, ``iscrowd`` 0.

    Raises:
        ValueError: an unknown image or category, or a wrong box or mask; names the annotation.
    """
    place = f"annotation {number}"
    ids = checked_ids(place, row)
    if ids["image_id"] not in images:
        raise ValueError(f"{place}: image_id {ids['image_id']!r} is not among the images")
    if ids["category_id"] not in categories:
        raise ValueError(f"{place}: category_id {ids['category_id']} is not a category")
    bbox = check_box(place, row.get("bbox"), positive=True)
    new = {"id": number + 1, **row, **ids, "bbox": bbox}
    new.update(id=number + 1, area=bbox[2] * bbox[3], iscrowd=0)
    if row.get("segmentation") is not None:
        new["segmentation"] = check_segmentation(place, row["segmentation"])
        new["area"] = mask_area(place, new["segmentation"])
    return new
