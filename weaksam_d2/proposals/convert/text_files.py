"""Proposals as COCO results (JSON) and as a table (CSV)."""

import csv
import json
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import ForeignFileError
from weaksam_d2.artifacts.coco_json import rle_runs
from weaksam_d2.artifacts.foreign_errors import shown

from .foreign import ForeignBoxes, ForeignSet, ImageRecord, box_rows, match_ids, number_column
from .layouts import BoxLayout

__all__ = ["mask_counts", "read_coco", "read_csv"]

# Numbers of up to 35 bits; one without an end would be unfolded to its last bit.
_COMPRESSED = re.compile("(?:[P-o]{0,6}[0-O])+")
_COLUMNS = ("image_id", "x1", "y1", "x2", "y2")


def read_coco(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A list of ``image_id``, ``bbox`` (XYWH, from 0) and, optionally, ``score``, ``segmentation``.

    A COCO data set is read by its ``annotations``. Segmentations are run lengths, of every row or
    of none; categories are left out.

    Raises:
        ForeignFileError: not such a file; polygons; run lengths of another size than the image.
    """
    try:
        rows = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ForeignFileError(f"{path} is not valid JSON ({error!s:.200})") from error
    rows = rows.get("annotations") if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ForeignFileError(f"{path} holds no list of results or annotations")
    by_id: dict[Any, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        key = row.get("image_id")
        if not isinstance(key, (str, int)) or "bbox" not in row:
            raise ForeignFileError(f"{path}: row {number} has no 'image_id' (a text) or no 'bbox'")
        by_id.setdefault(key, []).append(row)
    has = {key: _on_all_or_none(path, rows, key) for key in ("score", "segmentation")}
    places = match_ids(path, list(by_id), records)
    groups = list(by_id.values())
    sizes = {record.image_id: record.size for record in records}

    def read(image_id: str) -> ForeignBoxes:
        where, group = f"{path}: image {image_id!r}", groups[places[image_id]]
        boxes = BoxLayout("xywh").to_boxes(box_rows(where, [row["bbox"] for row in group]))
        scores = masks = None
        if has["score"]:
            scores = number_column(where, [row["score"] for row in group], len(group))
        if has["segmentation"]:
            size = sizes.get(image_id)
            masks = tuple(mask_counts(where, row["segmentation"], size) for row in group)
        return ForeignBoxes(boxes, scores, masks=masks)

    return ForeignSet(list(places), read)


def _on_all_or_none(path: Path, rows: Sequence[dict[str, Any]], key: str) -> bool:
    given = [bool(row.get(key)) if key == "segmentation" else key in row for row in rows]
    if any(given) and not all(given):
        raise ForeignFileError(
            f"{path}: row {given.index(True)} has '{key}', row {given.index(False)} has not; "
            "expected it on all rows or on none"
        )
    return any(given)


def mask_counts(where: str, segmentation: Any, size: tuple[int, int] | None) -> bytes:
    """Compressed run lengths of a mask of (height, width).

    segmentation: {"size", "counts"}, compressed or not.

    Raises:
        ForeignFileError: something else, or a mask of another size; ``where`` names the image.
    """
    given = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(given, (str, list)):
        raise ForeignFileError(f"{where}: a segmentation is no run lengths; encode its polygons")
    if size is None or segmentation.get("size") != list(size):
        found = shown(str(segmentation.get("size")))
        raise ForeignFileError(
            f"{where}: a segmentation is of size {found}, not of the image's size {size}"
        )
    if isinstance(given, str) and not _COMPRESSED.fullmatch(given):
        raise ForeignFileError(f"{where}: {shown(given)} is no compressed run lengths")
    runs = rle_runs(given) if isinstance(given, str) else given
    if any(type(run) is not int or run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise ForeignFileError(f"{where}: run lengths do not fill an image of {size}")
    if isinstance(given, str):
        return given.encode("ascii")
    encoded: bytes = coco_mask.frPyObjects({"size": list(size), "counts": runs}, *size)["counts"]
    return encoded


def read_csv(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A table with the columns image_id, x1, y1, x2, y2 and, optionally, score, in UTF-8.

    Boxes are half-open, from 0; other columns are left out; an empty score is none.

    Raises:
        ForeignFileError: a column is missing, or a line holds something else; names the line.
    """
    by_id: dict[str, array[float]] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        try:
            header = next(lines, [])
            if missing := [name for name in _COLUMNS if name not in header]:
                raise ForeignFileError(
                    f"{path} lacks the columns {missing}; its first line is {shown(str(header))}"
                )
            parse, width = _parser(header)
            for line in lines:
                if line:
                    image_id, numbers = parse(line)
                    by_id.setdefault(image_id, array("d")).extend(numbers)
        except ForeignFileError:
            raise
        except (csv.Error, ValueError, IndexError) as error:  # UnicodeDecodeError, too
            raise ForeignFileError(f"{path}, line {lines.line_num}: {error!s:.200}") from error
    places = match_ids(path, list(by_id), records)
    groups = list(by_id.values())

    def read(image_id: str) -> ForeignBoxes:
        rows = np.frombuffer(groups[places[image_id]]).reshape(-1, width)
        scores = None
        if width == 5:
            scores = number_column(f"{path}: image {image_id!r}", rows[:, 4], len(rows))
        return ForeignBoxes(BoxLayout("xyxy").to_boxes(rows[:, :4]), scores)

    return ForeignSet(list(places), read)


def _parser(header: list[str]) -> tuple[Callable[[list[str]], tuple[str, list[float]]], int]:
    columns = [header.index(name) for name in _COLUMNS]
    score = header.index("score") if "score" in header else None

    def parse(line: list[str]) -> tuple[str, list[float]]:
        numbers = [float(line[column]) for column in columns[1:]]
        if score is not None:
            numbers.append(float(line[score] or "nan"))
        return line[columns[0]], numbers

    return parse, len(columns) - 1 + (score is not None)
