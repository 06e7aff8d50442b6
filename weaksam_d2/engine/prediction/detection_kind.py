"""Detections as COCO results, as a table, and as boxes (and masks) in pictures."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import CategoryMap, atomic_write
from weaksam_d2.artifacts.io import dump_json
from weaksam_d2.engine.prediction.kind import Entry
from weaksam_d2.evaluation import Detections, detection_entries
from weaksam_d2.ops import encode_rle
from weaksam_d2.visualization import draw_detections

__all__ = ["DetectionKind"]

_COLUMNS = ("image_id", "file_name", "class", "category_id", "score", "x1", "y1", "x2", "y2")


class DetectionKind:
    """``instances`` of an image, ordered by falling score.

    An entry is ``{"detections": rows}``; joined they are ``detections.json`` (COCO results) and
    ``detections.csv``. Pictures show what scores at least ``score_thresh``; the files hold all.
    """

    counted = "detections"

    def __init__(self, categories: CategoryMap, *, score_thresh: float = 0.5) -> None:
        self._map, self._score_thresh = categories, score_thresh

    @property
    def categories(self) -> Sequence[Mapping[str, Any]]:
        """The classes with the ids of their data set."""
        return self._map.categories()

    def settings(self, *, pictures: bool) -> dict[str, Any]:
        """Without pictures the threshold decides nothing."""
        return {"score_thresh": self._score_thresh if pictures else None}

    def store(self, root: Path, image_id: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """The rows of ``detections.json``; there are no other files."""
        rows = detection_entries(image_id, _detections(found["instances"]), self._map)
        return {"detections": rows}

    def is_stored(self, root: Path, entries: Iterable[Entry]) -> bool:
        """The entries are all there is."""
        return True

    def draw(
        self, image: np.ndarray, found: Mapping[str, Any], entry: Entry, *, side: int
    ) -> np.ndarray:
        """Boxes with class and score, and masks where there are any."""
        return draw_detections(
            image,
            entry["detections"],
            categories=self.categories,
            score_thresh=self._score_thresh,
            side=side,
        )

    def join(self, root: Path, entries: Iterable[tuple[Mapping[str, Any], Entry]]) -> int:
        """Both files, row by row: memory does not grow with the number of detections."""
        names = {row["id"]: row["name"] for row in self.categories}
        count = 0
        with ExitStack() as stack:
            results, table = (
                stack.enter_context(open(path, "w", encoding="utf-8", newline=""))
                for path in [
                    stack.enter_context(atomic_write(root / name))
                    for name in ("detections.json", "detections.csv")
                ]
            )
            columns = csv.writer(table)
            columns.writerow(_COLUMNS)
            results.write("[")
            for image, entry in entries:
                for row in entry["detections"]:
                    results.write((",\n" if count else "\n") + dump_json(row))
                    count += 1
                    columns.writerow(_csv_row(image, row, names))
            results.write("\n]\n" if count else "]\n")
        return count


def _detections(instances: Any) -> Detections:
    masks = None
    if instances.has("pred_masks"):
        size = [int(side) for side in instances.pred_masks.shape[1:]]
        codes = encode_rle(instances.pred_masks)
        masks = tuple({"size": size, "counts": code.decode("ascii")} for code in codes)
    return Detections(
        boxes=instances.pred_boxes.tensor.numpy(),
        scores=instances.scores.numpy(),
        classes=instances.pred_classes.numpy(),
        masks=masks,
    )


def _csv_row(
    image: Mapping[str, Any], row: Mapping[str, Any], names: Mapping[int, str]
) -> list[Any]:
    x, y, width, height = row["bbox"]
    name = names[row["category_id"]]
    label = [image["id"], image["file_name"], name, row["category_id"], row["score"]]
    return [*label, x, y, x + width, y + height]
