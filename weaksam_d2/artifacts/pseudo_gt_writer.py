"""Writing pseudo ground truth annotation by annotation, in constant memory."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from weaksam_d2.artifacts.coco_checks import check_annotation, check_info
from weaksam_d2.artifacts.io import atomic_write, dump_json

__all__ = ["PSEUDO_GT_FORMAT", "PseudoGTWriter", "check_mask_count", "distinct_ids"]

PSEUDO_GT_FORMAT = "weaksam_d2.pseudo_gt/1"


class PseudoGTWriter:
    """Writes the file that ``write_pseudo_gt`` writes, of annotations given one by one.

    A context manager: ``add`` each annotation, then ``finish``. They wait in an unnamed file of the
    same folder, since counts, which come first, are known last; without ``finish`` nothing is
    written.

    Raises:
        ValueError: images or categories that share an id.
    """

    def __init__(
        self,
        path: Path,
        *,
        images: Sequence[dict[str, Any]],
        categories: Sequence[dict[str, Any]],
    ) -> None:
        self._path = Path(path)
        self._images, self._categories = images, categories
        try:
            self._image_ids, self._category_ids = distinct_ids(images, categories)
        except (KeyError, ValueError) as error:
            raise ValueError(f"cannot write {path}: {error}") from error
        self._annotated: set[int | str] = set()
        self._count = self._masks = 0

    def __enter__(self) -> "PseudoGTWriter":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._waiting = tempfile.TemporaryFile(dir=self._path.parent)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._waiting.close()

    def add(self, annotation: dict[str, Any]) -> None:
        """Append an annotation; its id, area and ``iscrowd`` are set here.

        Raises:
            ValueError: an unknown image or category, or a wrong box or mask; names file and place.
        """
        try:
            row = check_annotation(self._count, annotation, self._image_ids, self._category_ids)
        except ValueError as error:
            raise ValueError(f"cannot write {self._path}: {error}") from error
        self._waiting.write(((",\n" if self._count else "") + dump_json(row)).encode())
        self._annotated.add(row["image_id"])
        self._masks += "segmentation" in row and row["segmentation"] is not None
        self._count += 1

    def finish(self, info: dict[str, Any]) -> None:
        """Write the file; ``format`` and ``counts`` of ``info["weaksam"]`` are set here.

        Raises:
            ValueError: an incomplete ``info["weaksam"]``, or a mask on some annotations only.
        """
        try:
            check_mask_count(self._masks, self._count)
            block = check_info(info)
        except ValueError as error:
            raise ValueError(f"cannot write {self._path}: {error}") from error
        counts = {
            "images": len(self._images),
            "annotations": self._count,
            "images_without_annotation": len(self._images) - len(self._annotated),
        }
        weaksam = {**block, "format": PSEUDO_GT_FORMAT, "counts": counts}
        with atomic_write(self._path) as temporary, open(temporary, "wb") as file:
            file.write(f'{{\n"info": {dump_json({**info, "weaksam": weaksam})}'.encode())
            for name, rows in (("images", self._images), ("categories", self._categories)):
                text = ",\n".join(dump_json(row) for row in rows)
                file.write(f',\n"{name}": {_bracket(text)}'.encode())
            file.write(b',\n"annotations": ')
            self._waiting.seek(0)
            file.write(b"[\n" if self._count else b"[]")
            shutil.copyfileobj(self._waiting, file)
            file.write(b"\n]\n}\n" if self._count else b"\n}\n")


def distinct_ids(
    images: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]]
) -> tuple[set[int | str], set[int]]:
    """The ids of both. ValueError if one is repeated."""
    image_ids = {row["id"] for row in images}
    category_ids = {row["id"] for row in categories}
    if len(image_ids) != len(images) or len(category_ids) != len(categories):
        raise ValueError("images and categories must have distinct ids")
    return image_ids, category_ids


def check_mask_count(masks: int, annotations: int) -> None:
    """ValueError if some annotations have a mask and others have none."""
    if masks not in (0, annotations):
        raise ValueError(
            f"{masks} of {annotations} annotations have a segmentation: give it to all or to none"
        )


def _bracket(text: str) -> str:
    return f"[\n{text}\n]" if text else "[]"
