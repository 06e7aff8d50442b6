"""MATLAB files: Selective Search (one file for a data set) and MCG (one file for each image)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import ForeignFileError

from .foreign import ForeignBoxes, ForeignSet, ImageRecord, box_rows, match_ids, number_column
from .layouts import BoxLayout
from .mat_files import load_mat

__all__ = ["read_mcg", "read_selective_search"]

LAYOUT = BoxLayout("yxyx", first=1, inclusive=True)


def read_selective_search(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """Cells ``boxes`` (n, 4) and ``images`` (names), as of Fast R-CNN, pcl.pytorch and OICR.

    Boxes are y1, x1, y2, x2 from 1 with the last pixel in them. There are no scores.

    Raises:
        ForeignFileError: see `load_mat`; a variable is missing or of another length.
    """
    content = load_mat(path, ("boxes", "images"))
    boxes, names = (_cells(path, content, name) for name in ("boxes", "images"))
    if len(boxes) != len(names):
        raise ForeignFileError(f"{path} has {len(boxes)} boxes and {len(names)} images")
    places = match_ids(path, [_text(path, name) for name in names], records)

    def read(image_id: str) -> ForeignBoxes:
        rows = box_rows(f"{path}: image {image_id!r}", boxes[places[image_id]])
        return ForeignBoxes(LAYOUT.to_boxes(rows))

    return ForeignSet(list(places), read)


def _cells(path: Path, content: dict[str, Any], name: str) -> np.ndarray:
    cells = content.get(name)
    if not isinstance(cells, np.ndarray) or cells.dtype != object:
        raise ForeignFileError(f"{path} has no cell array {name!r}; it is no Selective Search file")
    return cells.ravel()


def _text(path: Path, value: Any) -> str:
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind != "U":
        raise ForeignFileError(f"{path}: an entry of 'images' is no text")
    text: str = value.ravel()[0]
    return text


def read_mcg(path: Path, records: Sequence[ImageRecord]) -> ForeignSet:
    """A folder, of any depth, with one file `<image name or id>.mat` for each image.

    Each holds ``bboxes`` or ``boxes`` (n, 4), as of :func:`read_selective_search`, and mostly
    ``scores`` or ``bboxes_scores`` (n,); it is opened when its image is read.

    Raises:
        ForeignFileError: no such file in the folder, two of one image, or a file that is wrong.
    """
    if not path.is_dir():
        raise ForeignFileError(f"{path} is no folder; MCG has one .mat file for each image")
    files = sorted(path.rglob("*.mat"))
    if not files:
        raise ForeignFileError(f"{path} has no .mat files, neither have its folders")
    places = match_ids(path, [file.stem for file in files], records)

    def read(image_id: str) -> ForeignBoxes:
        file = files[places[image_id]]
        names = ("bboxes", "boxes"), ("scores", "bboxes_scores")
        content = load_mat(file, (*names[0], *names[1]))
        boxes, scores = ([content[n] for n in group if n in content] for group in names)
        if not boxes:
            raise ForeignFileError(f"{file} has neither 'bboxes' nor 'boxes'")
        rows = box_rows(str(file), boxes[0])
        column = number_column(str(file), scores[0], len(rows)) if scores else None
        return ForeignBoxes(LAYOUT.to_boxes(rows), column)

    return ForeignSet(list(places), read)
