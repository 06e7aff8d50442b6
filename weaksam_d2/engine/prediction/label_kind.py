"""Label maps as PNG files with their index, as a table of pixels, and as tints in pictures."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import LabelSpace, atomic_write, write_label_png
from weaksam_d2.artifacts.sem_seg_index import index_header, label_entry, write_index
from weaksam_d2.artifacts.sem_seg_labels import INDEX_NAME
from weaksam_d2.engine.prediction.kind import Entry
from weaksam_d2.visualization import draw_labels

__all__ = ["LabelKind"]

_COLUMNS = ("image_id", "file_name", "class", "label", "pixels", "share")


class LabelKind:
    """``labels`` of an image, uint8 (H, W) of a label space.

    An entry is ``{"label": what labels.json says of the image}``, and its PNG lies in
    ``labels/``; joined they are ``labels.json``, which makes the folder an artifact
    :class:`~weaksam_d2.artifacts.SemSegLabels`, and ``labels.csv``, a row for each class of each
    image.
    """

    counted = "classes"

    def __init__(self, space: LabelSpace) -> None:
        self._space = space
        # Of an image that is predicted nothing is known; so says the evaluator, too.
        self._header = index_header(space, system="segmenter", base="custom", supervision="none")

    @property
    def categories(self) -> Sequence[Mapping[str, Any]]:
        """The label ids that are values of the PNG files; 0 is background."""
        return [{"id": label, "name": name} for label, name in enumerate(self._space.classes)]

    def settings(self, *, pictures: bool) -> dict[str, Any]:
        """The names of the labels, which index and pictures hold."""
        return {"classes": list(self._space.classes)}

    def store(self, root: Path, image_id: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """Write the label image.

        Raises:
            ValueError: a value that is no label; names the image.
        """
        entry = label_entry(image_id, found["labels"], self._space)
        write_label_png(root / str(entry["file"]), found["labels"])
        return {"label": entry}

    def is_stored(self, root: Path, entries: Iterable[Entry]) -> bool:
        """Whether the label images are there."""
        return all((root / entry["label"]["file"]).is_file() for entry in entries)

    def draw(
        self, image: np.ndarray, found: Mapping[str, Any], entry: Entry, *, side: int
    ) -> np.ndarray:
        """Each class tinted, with a legend; background stays as it is."""
        return draw_labels(image, found["labels"], self._space, side=side)

    def join(self, root: Path, entries: Iterable[tuple[Mapping[str, Any], Entry]]) -> int:
        """Both files, image by image; counts the classes that occur, without background."""
        seen: set[int] = set()
        with (
            atomic_write(root / "labels.csv") as path,
            open(path, "w", encoding="utf-8", newline="") as table,
            atomic_write(root / INDEX_NAME) as index,
        ):
            columns = csv.writer(table)
            columns.writerow(_COLUMNS)
            write_index(index, self._header, self._tabulated(entries, columns, seen))
        return len(seen - {0, self._space.ignore})

    def _tabulated(
        self,
        entries: Iterable[tuple[Mapping[str, Any], Entry]],
        columns: Any,
        seen: set[int],
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows of the index; each is written to the table as it goes by."""
        for image, entry in entries:
            total = int(image["height"]) * int(image["width"])
            for value, pixels in entry["label"]["pixels"].items():
                label = int(value)
                seen.add(label)
                name = "ignored" if label == self._space.ignore else self._space.classes[label]
                row = [image["id"], image["file_name"], name, label, pixels]
                columns.writerow([*row, round(pixels / total, 6)])
            yield image["id"], entry["label"]
