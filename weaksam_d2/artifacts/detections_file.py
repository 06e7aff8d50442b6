"""A COCO results list read by image: rows stay on disk, only where they stand is in memory."""

import json
import re
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from weaksam_d2.artifacts.coco_checks import check_detection, checked_ids
from weaksam_d2.artifacts.io import ArtifactError

__all__ = ["DetectionsFile"]

_BLOCK = 1 << 20  # bytes that are read at once
_LONGEST_ROW = 1 << 26  # bytes; a longer one is no detection
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"[ \t\n\r]*")


class _Row(NamedTuple):
    value: Any
    start: int  # bytes of the file
    stop: int


class _Runs(NamedTuple):
    """Neighboring rows of the same image; those of image i are ``first[i]`` to ``first[i + 1]``."""

    first: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]  # number of its first row
    start: npt.NDArray[np.int64]  # bytes of the file
    stop: npt.NDArray[np.int64]


class DetectionsFile(Mapping[str, list[dict[str, Any]]]):
    """The rows of each image of a COCO results list, as ``read_detections`` gives them.

    Opening it goes through the file once. Keys are image ids as text, in the order of their first
    row; rows of an image need not stand together, but memory is least if they do. Close it, or
    use it as a context manager.

    Raises:
        ArtifactError: not a list, damaged or cut off, or a row with a wrong image id; later, when
        an image is read, a row with another error. Names file and row.
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self._file = open(self._path, "rb")  # noqa: SIM115  # closed by close()
        try:
            self._images, self._runs = self._index()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "DetectionsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[str]:
        return iter(self._images)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def __getitem__(self, image_id: str) -> list[dict[str, Any]]:
        image = self._images[image_id]
        rows: list[dict[str, Any]] = []
        for run in range(self._runs.first[image], self._runs.first[image + 1]):
            rows += self._read(run)
        return rows

    def _read(self, run: int) -> list[dict[str, Any]]:
        start, stop = int(self._runs.start[run]), int(self._runs.stop[run])
        self._file.seek(start)
        number = int(self._runs.row[run])
        try:
            values = json.loads(b"[" + self._file.read(stop - start) + b"]")
            return [check_detection(f"row {number + i}", row) for i, row in enumerate(values)]
        except ValueError as error:
            raise ArtifactError(f"{self._path}, {error}") from error

    def _index(self) -> tuple[dict[str, int], _Runs]:
        images: dict[str, int] = {}
        image, row, start, stop = (array("q") for _ in range(4))
        last = None
        for number, found in enumerate(_rows(self._path, self._file)):
            name = self._image_id(number, found.value)
            if name == last:
                stop[-1] = found.stop
                continue
            last = name
            values = (images.setdefault(name, len(images)), number, found.start, found.stop)
            for column, value in zip((image, row, start, stop), values, strict=True):
                column.append(value)
        owner = np.frombuffer(image, np.int64) if image else np.zeros(0, np.int64)
        order = np.argsort(owner, kind="stable")
        first = np.searchsorted(owner[order], np.arange(len(images) + 1))
        columns = [np.array(column, dtype=np.int64)[order] for column in (row, start, stop)]
        return images, _Runs(first, *columns)

    def _image_id(self, number: int, value: Any) -> str:
        place = f"row {number}"
        if not isinstance(value, dict):
            raise ArtifactError(f"{self._path}, {place} must be an object, got {value!r:.60}")
        try:
            return str(checked_ids(place, {**value, "category_id": 0})["image_id"])
        except ValueError as error:
            raise ArtifactError(f"{self._path}, {error}") from error


def _rows(path: Path, file: BinaryIO) -> Iterator[_Row]:
    """The elements of a JSON list and the bytes that they cover, a block of the file at a time."""
    text = _Text(path, file)
    if text.next_mark() != "[":
        raise ArtifactError(f"{path} must hold a list of detections, it does not begin with '['")
    text.skip()
    if text.next_mark() == "]":
        text.skip()
    else:
        while True:
            yield text.value()
            mark = text.next_mark()
            text.skip()
            if mark == "]":
                break
            if mark != ",":
                raise text.error(f"expected ',' or ']', got {mark!r}")
            text.next_mark()
    if mark := text.next_mark():
        raise text.error(f"there is more behind the list, {mark!r}")


class _Text:
    """A moving window on a file; a character is a byte, whatever the encoding says."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self._window, self._base, self._at = "", 0, 0
        self._plain = self._ended = False
        self._decode = json.JSONDecoder().raw_decode
        self._more(max(_BLOCK, len(_BOM)))
        if self._window.startswith(_BOM.decode("latin-1")):
            self._at = len(_BOM)

    def next_mark(self) -> str:
        """The next character that is no space, not taken; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._window, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._window):
                return self._window[self._at]
            if self._ended:
                return ""
            self._more(_BLOCK)

    def skip(self) -> None:
        """Take one character."""
        self._at += 1

    def value(self) -> _Row:
        """Take the JSON value that begins here."""
        wanted = _BLOCK
        while True:
            try:
                value, stop = self._decode(self._window, self._at)
            except ValueError as error:
                if self._ended or len(self._window) - self._at > _LONGEST_ROW:
                    raise self.error(str(error)) from error
                self._more(wanted)
                wanted *= 2  # so that a long row is not decoded from its start too often
                continue
            start, self._at = self._at, stop
            if not self._plain:
                value = self._decoded(self._window[start:stop])
            return _Row(value, self._base + start, self._base + stop)

    def _decoded(self, text: str) -> Any:
        try:
            return json.loads(text.encode("latin-1"))
        except ValueError as error:
            raise self.error(str(error)) from error

    def error(self, problem: str) -> ArtifactError:
        """What is wrong at this place."""
        return ArtifactError(
            f"{self._path} is not valid JSON (byte {self._base + self._at}: {problem}): it is "
            "damaged or cut off, write it again"
        )

    def _more(self, count: int) -> None:
        block = self._file.read(count)
        self._ended = len(block) < count
        self._window = self._window[self._at :] + block.decode("latin-1")
        self._plain = self._window.isascii()
        self._base, self._at = self._base + self._at, 0
