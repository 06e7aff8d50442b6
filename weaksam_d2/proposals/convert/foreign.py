"""What a reader of a foreign file gives, and the checks that all readers share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from weaksam_d2.artifacts import ForeignFileError
from weaksam_d2.artifacts.foreign_errors import shown

__all__ = [
    "ForeignBoxes",
    "ForeignSet",
    "ImageRecord",
    "box_rows",
    "image_records",
    "match_ids",
    "number_column",
]

_NUMBERS = "iuf"


class ForeignBoxes(NamedTuple):
    """One image's proposals: boxes float32 (n, 4) XYXY half-open, not clipped, in file order.

    ``scores`` float32 (n,); ``rank`` (n,) is what the file is sorted by, if not the scores;
    ``sources`` (n,) rows of the set's ``source_names``; ``masks`` compressed RLE counts;
    ``stability`` float32 (n,), SAM's stability scores.
    """

    boxes: np.ndarray
    scores: np.ndarray | None = None
    rank: np.ndarray | None = None
    sources: np.ndarray | None = None
    masks: tuple[bytes, ...] | None = None
    stability: np.ndarray | None = None


@dataclass(frozen=True)
class ForeignSet:
    """A file's images, by the data set's ids where they are known there, and how to read one."""

    image_ids: Sequence[str]
    read: Callable[[str], ForeignBoxes]
    source_names: tuple[str, ...] = ()


class ImageRecord(NamedTuple):
    """What an importer knows of an image: id, (height, width), file name without its ending."""

    image_id: str
    size: tuple[int, int]
    stem: str


def image_records(records: Iterable[Mapping[str, Any]]) -> list[ImageRecord]:
    """From data set records, in their order."""
    return [
        ImageRecord(
            str(record["image_id"]),
            (int(record["height"]), int(record["width"])),
            PurePath(str(record.get("file_name", ""))).stem,
        )
        for record in records
    ]


def match_ids(path: Path, foreign: Sequence[Any], records: Sequence[ImageRecord]) -> dict[str, int]:
    """Place in the file of each image, by the data set's id where one matches, else by its own.

    Text matches an id or a file name without its ending; a number also an id that is this number
    (VOC: 5 is 000005, and 2008000002 is 2008_000002). What two images share matches neither.

    Raises:
        ForeignFileError: an id that is neither text nor an integer, or an image listed twice.
    """
    by_text = _unique((record.stem, record.image_id) for record in records)
    by_text.update((record.image_id, record.image_id) for record in records)
    numbers = ((record.image_id.replace("_", ""), record.image_id) for record in records)
    by_number = _unique((int(n), i) for n, i in numbers if n.isascii() and n.isdigit())
    places: dict[str, int] = {}
    for place, value in enumerate(foreign):
        is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not is_number and not isinstance(value, str):
            raise ForeignFileError(
                f"{path}: image id {place} is {shown(value)}, expected text or an integer"
            )
        own = by_text.get(str(value)) or (by_number.get(int(value)) if is_number else None)
        image_id = str(value) if own is None else own
        if image_id in places:
            raise ForeignFileError(
                f"{path} lists image {image_id!r} twice, at {places[image_id]} and {place}"
            )
        places[image_id] = place
    return places


def _unique(pairs: Iterable[tuple[Any, str]]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    shared = set()
    for key, image_id in pairs:
        if found.setdefault(key, image_id) != image_id:
            shared.add(key)
    return {key: image_id for key, image_id in found.items() if key not in shared}


def box_rows(where: str, value: Any, widths: Sequence[int] = (4,)) -> np.ndarray:
    """Rows of a file as an array (n, width); integers stay what they are.

    Raises:
        ForeignFileError: not a table of numbers of one of the ``widths``.
    """
    expected = " or ".join(f"(n, {width})" for width in widths)
    array = value if isinstance(value, np.ndarray) else _nested(where, value, widths)
    if array.size == 0 and array.ndim in (1, 2) and len(array) == 0:
        return np.zeros((0, widths[0]))
    if array.dtype.kind not in _NUMBERS or array.ndim != 2 or array.shape[1] not in widths:
        raise ForeignFileError(
            f"{where}: boxes are {array.dtype} of shape {array.shape}, expected numbers of shape "
            f"{expected}"
        )
    return array


def _nested(where: str, value: Any, widths: Sequence[int]) -> np.ndarray:
    """Rows that are sequences; looked at before numpy unfolds what may be nested without end."""
    if not isinstance(value, (list, tuple)):
        raise ForeignFileError(f"{where}: boxes are a {type(value).__name__}, expected an array")
    for row in value:
        fits = isinstance(row, (list, tuple, np.ndarray)) and len(row) in widths
        if not fits or len(row) != len(value[0]):
            raise ForeignFileError(
                f"{where}: a box is {shown(row)}, expected {' or '.join(map(str, widths))} numbers"
            )
    flat = [number for row in value for number in row]
    return _numbers(where, flat).reshape(len(value), -1) if value else np.zeros((0, widths[0]))


def number_column(where: str, value: Any, count: int) -> np.ndarray:
    """Numbers of a file as float32 (count,).

    Raises:
        ForeignFileError: not one number for each box.
    """
    array = value if isinstance(value, np.ndarray) else _numbers(where, value)
    if array.dtype.kind not in _NUMBERS or array.size != count or array.ndim > 2:
        raise ForeignFileError(
            f"{where}: scores or sources are {array.dtype} of shape {array.shape}, expected one "
            f"number for each of {count} boxes"
        )
    with np.errstate(over="ignore"):
        return array.ravel().astype(np.float32)


def _numbers(where: str, values: Any) -> np.ndarray:
    if not isinstance(values, (list, tuple)):
        raise ForeignFileError(f"{where}: {type(values).__name__} where numbers are expected")
    for value in values:
        if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
            raise ForeignFileError(f"{where}: {shown(value)} where a number is expected")
    try:
        return np.array([float(value) for value in values])
    except OverflowError as error:
        raise ForeignFileError(f"{where}: a number is too large ({error})") from error
