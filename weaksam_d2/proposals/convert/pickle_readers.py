"""Proposal pickles of detectron2, wetectron (and pcl.pytorch), mmdet and the WeakSAM release."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import ForeignFileError, load_plain_pickle
from weaksam_d2.artifacts.foreign_errors import shown

from .foreign import ForeignBoxes, ForeignSet, ImageRecord, box_rows, match_ids, number_column
from .layouts import BoxLayout, LayoutEvidence, detect_layout

__all__ = ["OWN_FORMAT", "read_detectron2", "read_mmdet", "read_weaksam", "read_wetectron"]

# Key "format" in the meta of detectron2 pickles that we write: their logits are ranks.
OWN_FORMAT = "weaksam_d2.detectron2_proposals/1"
_MODES = {0: "xyxy", 1: "xywh"}


def read_detectron2(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A dict of parallel lists ``ids``, ``boxes``, ``objectness_logits``, and ``bbox_mode``.

    The names ``indexes`` and ``scores`` of Detectron's files are read as detectron2 does it.

    Raises:
        UnsafePickleError, ForeignFileError: see `load_plain_pickle`; a list is missing or of
            another length; a ``bbox_mode`` that is not XYXY_ABS (0) or XYWH_ABS (1).
    """
    data = _dictionary(path)
    ids, boxes = _lists(path, data, ("ids", "indexes"), ("boxes",))
    (logits,) = _lists(path, data, ("scores", "objectness_logits"), count=len(ids))
    mode = data.get("bbox_mode", 0)
    if type(mode) is not int or mode not in _MODES:
        raise ForeignFileError(f"{path} has bbox_mode {shown(mode)}, expected 0 (XYXY) or 1 (XYWH)")
    layout = BoxLayout(_MODES[mode])
    meta = data.get("meta")
    own = meta if isinstance(meta, dict) and meta.get("format") == OWN_FORMAT else {}
    extra = {key: data[key] for key in ("source", "source_scores") if own and key in data}
    for key in extra:
        _lists(path, data, (key,), count=len(ids))
    places = match_ids(path, ids, records)
    names = _source_names(path, own) if "source" in extra else ()

    def read(image_id: str) -> ForeignBoxes:
        where, place = f"{path}: image {image_id!r}", places[image_id]
        rows = box_rows(where, boxes[place])
        column = {key: number_column(where, extra[key][place], len(rows)) for key in extra}
        rank = number_column(where, logits[place], len(rows))
        scores = column.get("source_scores", None if own else rank)
        sources = column.get("source")
        if sources is not None and not np.isin(sources, range(len(names))).all():
            raise ForeignFileError(f"{where}: 'source' is not in {list(names)}")
        return ForeignBoxes(layout.to_boxes(rows), scores, rank, sources)

    return ForeignSet(list(places), read, names)


def _source_names(path: Path, meta: dict[Any, Any]) -> tuple[str, ...]:
    names = meta.get("source_names")
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ForeignFileError(f"{path}: meta['source_names'] is {shown(names)}, expected texts")
    return tuple(names)


def read_wetectron(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A dict of parallel lists ``boxes``, ``indexes`` (or ``ids``) and, mostly, ``scores``.

    Boxes are XYXY from 0 with the last pixel in them. VOC ids are numbers: 5, 2008000002. The
    ``original_id`` that our own files hold goes before them.

    Raises:
        UnsafePickleError, ForeignFileError: as :func:`read_detectron2`.
    """
    data = _dictionary(path)
    ids, boxes = _lists(path, data, ("original_id", "indexes", "ids"), ("boxes",))
    scores = _lists(path, data, ("scores",), count=len(ids))[0] if "scores" in data else None
    places = match_ids(path, ids, records)
    layout = BoxLayout("xyxy", inclusive=True)

    def read(image_id: str) -> ForeignBoxes:
        where, place = f"{path}: image {image_id!r}", places[image_id]
        rows = box_rows(where, boxes[place])
        column = None if scores is None else number_column(where, scores[place], len(rows))
        return ForeignBoxes(layout.to_boxes(rows), column)

    return ForeignSet(list(places), read)


def read_mmdet(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A list in data set order of arrays (n, 4), or (n, 5) with the score last.

    Raises:
        UnsafePickleError, ForeignFileError: as :func:`read_detectron2`; another number of images.
    """
    boxes = _list_of_images(path, load_plain_pickle(path), records)
    places = {record.image_id: place for place, record in enumerate(records)}

    def read(image_id: str) -> ForeignBoxes:
        return _with_score(
            f"{path}: image {image_id!r}", boxes[places[image_id]], BoxLayout("xyxy")
        )

    return ForeignSet(list(places), read)


def read_weaksam(
    path: Path, records: Sequence[ImageRecord], *, box_format: str = "auto"
) -> ForeignSet:
    """A proposal pickle of the WeakSAM release: a list in data set order, or a dict of lists.

    Boxes are XYXY or XYWH (``box_format``), from 0, and x2, y2 (or x + w, y + h) are the last
    pixel; ``auto`` takes the order that the boxes themselves prove. The dict is as wetectron's.

    Raises:
        UnsafePickleError, ForeignFileError: as :func:`read_mmdet`; boxes that prove neither order.
    """
    data = load_plain_pickle(path)
    scores: Any = None
    if isinstance(data, dict):
        ids, boxes = _lists(path, data, ("indexes", "ids"), ("boxes",))
        scores = _lists(path, data, ("scores",), count=len(ids))[0] if "scores" in data else None
        places = match_ids(path, ids, records)
    else:
        boxes = _list_of_images(path, data, records)
        places = {record.image_id: place for place, record in enumerate(records)}

    def rows_of(image_id: str) -> np.ndarray:
        return box_rows(f"{path}: image {image_id!r}", boxes[places[image_id]], (4, 5))

    if box_format == "auto":
        evidence = LayoutEvidence()
        for record in records:
            if record.image_id in places:
                evidence.add(record.image_id, rows_of(record.image_id)[:, :4], record.size)
        box_format = detect_layout(str(path), evidence)
    layout = BoxLayout(box_format, inclusive=True)

    def read(image_id: str) -> ForeignBoxes:
        where = f"{path}: image {image_id!r}"
        found = _with_score(where, boxes[places[image_id]], layout)
        if scores is None or found.scores is not None:
            return found
        column = number_column(where, scores[places[image_id]], len(found.boxes))
        return found._replace(scores=column)

    return ForeignSet(list(places), read)


def _with_score(where: str, value: Any, layout: BoxLayout) -> ForeignBoxes:
    rows = box_rows(where, value, (4, 5))
    scores = number_column(where, rows[:, 4], len(rows)) if rows.shape[1] == 5 else None
    return ForeignBoxes(layout.to_boxes(rows[:, :4]), scores)


def _dictionary(path: Path) -> dict[Any, Any]:
    data = load_plain_pickle(path)
    if not isinstance(data, dict):
        raise ForeignFileError(f"{path} holds a {type(data).__name__}, expected a dict of lists")
    return data


def _lists(
    path: Path, data: dict[Any, Any], *names: tuple[str, ...], count: int | None = None
) -> list[Any]:
    """For each group of names the first that the file has, all of one length."""
    found = []
    for group in names:
        present = [name for name in group if name in data]
        if not present:
            raise ForeignFileError(
                f"{path} lacks {' or '.join(map(repr, group))}; it has "
                f"{', '.join(map(shown, list(data)[:10]))}"
            )
        values = data[present[0]]
        if not _is_list(values):
            raise ForeignFileError(f"{path}: {present[0]!r} is no list with one entry per image")
        count = len(values) if count is None else count
        if len(values) != count:
            raise ForeignFileError(
                f"{path}: {present[0]!r} has {len(values)} entries, expected {count}, one for each "
                "image"
            )
        found.append(values)
        if "boxes" in group:
            _check_total(path, values)
    return found


def _list_of_images(path: Path, data: Any, records: Sequence[ImageRecord]) -> Any:
    if not _is_list(data):
        raise ForeignFileError(f"{path} holds a {type(data).__name__}, expected a list of arrays")
    if len(data) != len(records):
        raise ForeignFileError(
            f"{path} has {len(data)} images, the data set {len(records)}: its images are known by "
            "their place only, so it must be the data set that the file was made for"
        )
    _check_total(path, data)
    return data


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _check_total(path: Path, boxes: Any) -> None:
    """An array that many images share may be a trap: no file has more boxes than bytes."""
    total = sum(len(rows) for rows in boxes if _is_list(rows))
    if total > path.stat().st_size:
        raise ForeignFileError(f"{path} unfolds to {total} boxes, more than it has bytes")
