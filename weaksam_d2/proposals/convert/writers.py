"""Proposals in the files of other programs, written image by image."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import Proposals, atomic_write
from weaksam_d2.artifacts.io import dump_json

from .layouts import BoxLayout
from .pickle_readers import OWN_FORMAT
from .pickle_stream import PickleStream
from .views import ProposalView

__all__ = [
    "SCORE_CHOICES",
    "write_coco",
    "write_csv",
    "write_detectron2",
    "write_mmdet",
    "write_selective_search",
    "write_wetectron",
]

SCORE_CHOICES = ("rank", "stored")
Meta = Mapping[str, Any]


def write_detectron2(path: Path, view: ProposalView, *, scores: str, meta: Meta) -> None:
    """A dict of ``ids`` (text), ``boxes``, ``objectness_logits`` (-row), ``bbox_mode`` 0.

    Ours are ``source`` and ``source_scores`` (lists, if there are any) and ``meta``: what is
    given, ``format``, ``source_names``, and ``image_sizes`` (I, 2), height and width. Row order is
    rank, whatever ``scores`` says.

    Source: weaksam.md, Sec. 1 (every loader keeps the order of such logits).
    """
    ids = list(view.image_ids)
    sizes = np.zeros((len(ids), 2), np.int32)
    with atomic_write(path) as temporary, PickleStream(temporary) as stream:
        stream.open_dict()
        stream.value("ids")
        stream.value(ids)
        stream.value("boxes")
        stream.open_list()
        for row, image_id in enumerate(ids):
            item = view.read(image_id, masks=False)
            sizes[row] = item.image_size
            stream.value(item.boxes)
        stream.close_list()
        _column(stream, view, "objectness_logits", lambda item: _ranks(len(item)))
        if "sources" in view.has:
            _column(stream, view, "source", lambda item: _or(item.sources, len(item), np.int8))
        if "scores" in view.has:
            column = "source_scores"  # as "scores" they would take the place of the logits
            _column(stream, view, column, lambda item: _or(item.scores, len(item), np.float32))
        stream.value("bbox_mode")
        stream.value(0)
        stream.value("meta")
        names = list(view.source_names)
        own = {"format": OWN_FORMAT, "source_names": names, "image_sizes": sizes}
        stream.value({**meta, **own})
        stream.close_dict()


def _column(stream: PickleStream, view: ProposalView, name: str, values: Any) -> None:
    stream.value(name)
    stream.open_list()
    for image_id in view.image_ids:
        stream.value(values(view.read(image_id, masks=False)))
    stream.close_list()


def _or(values: np.ndarray | None, count: int, dtype: Any) -> np.ndarray:
    """A column; an image without boxes has none."""
    return np.zeros(count, dtype) if values is None else values.astype(dtype)


def _ranks(count: int) -> np.ndarray:
    return -np.arange(count, dtype=np.float32)


def _score(item: Proposals, image_id: str, scores: str) -> np.ndarray:
    """The column that readers sort by, float32 (n,)."""
    if scores == "rank" or not len(item):
        return _ranks(len(item))
    if item.scores is None or np.isnan(item.scores).any():
        raise ValueError(
            f"image {image_id!r} has boxes without a score; --scores rank writes their order"
        )
    return item.scores


def _rows(view: ProposalView, scores: str) -> Iterator[tuple[str, Proposals, np.ndarray]]:
    if scores not in SCORE_CHOICES:
        raise ValueError(f"scores is {scores!r}, expected one of {SCORE_CHOICES}")
    for image_id in view.image_ids:
        item = view.read(image_id, masks=False)
        yield image_id, item, _score(item, image_id, scores)


def write_wetectron(path: Path, view: ProposalView, *, scores: str, meta: Meta) -> None:
    """A dict of ``indexes``, ``boxes`` (XYXY from 0, the last pixel in them) and ``scores``.

    Ids that are numbers but for "_" (VOC, COCO) are these numbers, else images are numbered from
    1; ``original_id`` has the ids themselves.

    Raises:
        ValueError: ``scores`` is "stored" and a box has none.
    """
    layout = BoxLayout("xyxy", inclusive=True)
    ids = list(view.image_ids)
    with atomic_write(path) as temporary, PickleStream(temporary) as stream:
        stream.open_dict()
        stream.value("boxes")
        stream.open_list()
        for _, item, _ in _rows(view, "rank"):
            stream.value(layout.from_boxes(item.boxes).astype(np.float32))
        stream.close_list()
        stream.value("scores")
        stream.open_list()
        for _, _, column in _rows(view, scores):
            stream.value(column)
        stream.close_list()
        for key, values in (("indexes", _numbers(ids)), ("original_id", ids)):
            stream.value(key)
            stream.value(values)
        stream.close_dict()


def _numbers(ids: list[str]) -> list[int]:
    plain = [image_id.replace("_", "") for image_id in ids]
    if all(text.isascii() and text.isdigit() for text in plain):
        numbers = [int(text) for text in plain]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(ids) + 1))


def write_mmdet(path: Path, view: ProposalView, *, scores: str, meta: Meta) -> None:
    """A list, in the order of the images, of float32 (n, 5): XYXY and score.

    Raises:
        ValueError: as :func:`write_wetectron`.
    """
    with atomic_write(path) as temporary, PickleStream(temporary) as stream:
        stream.open_list()
        for _, item, column in _rows(view, scores):
            stream.value(np.column_stack([item.boxes, column]).astype(np.float32))
        stream.close_list()


def write_coco(path: Path, view: ProposalView, *, scores: str, meta: Meta) -> None:
    """COCO's results list; all in category 1, with run lengths if the proposals have masks.

    Image ids that are decimal numbers are written as numbers, as COCO has them.

    Raises:
        ValueError: as :func:`write_wetectron`.
    """
    ids = list(view.image_ids)
    numeric = all(i.isascii() and i.isdigit() and str(int(i)) == i for i in ids)
    layout = BoxLayout("xywh")
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        separator = "["
        for image_id, item, column in _rows(view, scores):
            masks = view.read(image_id).masks if "masks" in view.has else None
            for row, box in enumerate(layout.from_boxes(item.boxes).tolist()):
                result: dict[str, Any] = {
                    "image_id": int(image_id) if numeric else image_id,
                    "category_id": 1,
                    "bbox": box,
                    "score": float(column[row]),
                }
                if masks is not None:
                    counts = masks[row].decode("ascii")
                    result["segmentation"] = {"size": list(item.image_size), "counts": counts}
                file.write(f"{separator}\n{dump_json(result)}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")


def write_csv(path: Path, view: ProposalView, *, scores: str, meta: Meta) -> None:
    """A table of image_id, x1, y1, x2, y2, score; the shortest numbers that read back the same.

    Raises:
        ValueError: as :func:`write_wetectron`.
    """
    with (
        atomic_write(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("image_id", "x1", "y1", "x2", "y2", "score"))
        for image_id, item, column in _rows(view, scores):
            for box, score in zip(item.boxes, column, strict=True):
                table.writerow((image_id, *map(str, box), str(score)))


def write_selective_search(path: Path, view: ProposalView, *, scores: str, meta: Meta) -> None:
    """MATLAB cells ``boxes`` (y1, x1, y2, x2 from 1, the last pixel in them) and ``images``.

    The format has no scores; rows are in rank order.
    """
    from scipy.io import savemat

    layout = BoxLayout("yxyx", first=1, inclusive=True)
    count = len(view.image_ids)
    boxes, names = np.empty((1, count), object), np.empty((count, 1), object)
    for row, (image_id, item, _) in enumerate(_rows(view, "rank")):
        boxes[0, row], names[row, 0] = layout.from_boxes(item.boxes), image_id
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        savemat(file, {"boxes": boxes, "images": names}, do_compression=True)
