"""What the array artifacts share: a folder of `.npy` files and an `index.json`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from weaksam_d2.artifacts.io import (
    Array,
    ArtifactError,
    ImageId,
    atomic_folder,
    dump_json,
    read_json,
)
from weaksam_d2.artifacts.manifest import MANIFEST_NAME, RunManifest, list_outputs

INDEX_NAME = "index.json"
_MAGIC = b"\x93NUMPY\x01\x00"
# A multiple of 64 with room for every shape we write; the names of a structured dtype need more.
_HEADER_BYTES, _STRUCTURED_HEADER_BYTES = 128, 256
_BUFFER_BYTES = 1 << 18

Writer = TypeVar("Writer", bound="ArrayFolderWriter")
Store = TypeVar("Store", bound="ArrayFolder")


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Header of format 1.0, of one length for every row count so that it can be rewritten."""
    descr = dtype.str if dtype.names is None else dtype.descr
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    room = _HEADER_BYTES if dtype.names is None else _STRUCTURED_HEADER_BYTES
    room -= len(_MAGIC) + 2
    assert len(text) < room
    return _MAGIC + room.to_bytes(2, "little") + (text.ljust(room - 1) + "\n").encode("ascii")


class NpyAppender:
    """Grow a `.npy` file row by row; the header gets its row count when it is closed.

    ``row_shape`` is the shape of one row, () for a vector. Little-endian on every machine, and
    the bytes do not depend on how the rows were split over calls.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._row_shape = row_shape
        self._file: BinaryIO = open(path, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115
        self._file.write(_header(self._dtype, (0, *row_shape)))
        self.rows = 0

    def append(self, rows: npt.ArrayLike) -> None:
        """Append rows of shape (n, *row_shape)."""
        array = np.ascontiguousarray(rows, dtype=self._dtype)
        assert array.shape[1:] == self._row_shape, (array.shape, self._row_shape)
        self._file.write(array.tobytes())
        self.rows += len(array)

    def close(self) -> None:
        """Write the true row count and close; a second call does nothing."""
        if self._file.closed:
            return
        self._file.seek(0)
        self._file.write(_header(self._dtype, (self.rows, *self._row_shape)))
        self._file.close()


def map_npy(
    path: Path, dtype: npt.DTypeLike, rows: int | None = None, row_shape: tuple[int, ...] = ()
) -> Array:
    """Map a `.npy` file read only, after checking its header and its length on disk.

    Raises:
        ArtifactError: the file is missing, cut off, or of another dtype or shape.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: the artifact is incomplete, write it again")
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            shape, fortran, found = (
                read(file) if version == (1, 0) else np.lib.format.read_array_header_2_0(file)
            )
            start = file.tell()
    except ValueError as error:
        raise ArtifactError(f"{path} is not a .npy file ({error}): write it again") from error
    want = np.dtype(dtype).newbyteorder("<")
    fits = len(shape) == 1 + len(row_shape) and shape[1:] == row_shape and not fortran
    if found != want or not fits or (rows is not None and shape[0] != rows):
        expected = ("n" if rows is None else str(rows), *map(str, row_shape))
        raise ArtifactError(
            f"{path} holds {found} of shape {shape}, expected {want} of shape "
            f"({', '.join(expected)}{',' if not row_shape else ''}): write it again"
        )
    length = start + int(np.prod(shape, dtype=np.int64)) * found.itemsize
    if path.stat().st_size != length:
        raise ArtifactError(
            f"{path} has {path.stat().st_size} bytes, expected {length} for shape {shape}: "
            "it is cut off or damaged, write it again"
        )
    return np.memmap(path, dtype=found, mode="r", offset=start, shape=shape)


def check_offsets(path: Path, offsets: Array, last: int, what: str) -> None:
    """Refuse offsets that do not start at 0, fall, or do not end at ``last`` rows of ``what``."""
    falls = np.flatnonzero(offsets[1:] < offsets[:-1])
    if offsets[0] != 0:
        problem = f"starts at {offsets[0]}, expected 0"
    elif len(falls):
        row = int(falls[0])
        problem = f"falls from {offsets[row]} to {offsets[row + 1]} at row {row + 1}"
    elif offsets[-1] != last:
        problem = f"ends at {offsets[-1]}, expected {last}, the rows of {what}"
    else:
        return
    raise ArtifactError(f"{path} {problem}: the artifact is inconsistent, write it again")


def check_image_size(image_id: ImageId, image_size: Sequence[int]) -> tuple[int, int]:
    """(height, width) as positive ints, or a ValueError that names the image."""
    size = tuple(int(side) for side in image_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(
            f"image_size of image {image_id!r} must be (height, width), both positive, "
            f"got {image_size!r}"
        )
    return size[0], size[1]


class ArrayFolderWriter:
    """Context manager that streams arrays into a folder and publishes it on success.

    An exception in the block, or a killed process, leaves nothing under the real name. Set
    ``manifest`` before the block ends to have `manifest.json` written, with ``outputs`` filled.
    Memory grows with the number of images only.
    """

    format_name: str = ""

    def __init__(self, path: Path, *, header: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path = Path(path)
        self.manifest: RunManifest | None = None
        self._header: dict[str, Any] = dict(header)
        self._overwrite = overwrite
        self._ids: dict[ImageId, None] = {}
        self._files: dict[str, NpyAppender] = {}
        self._stack = ExitStack()
        self._folder: Path | None = None

    def __len__(self) -> int:
        """Images added so far."""
        return len(self._ids)

    def __enter__(self: Writer) -> Writer:
        self._folder = self._stack.enter_context(
            atomic_folder(self.path, overwrite=self._overwrite)
        )
        self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            try:
                self._close()
            finally:
                self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:  # an error in here, too, removes the temporary folder
            try:
                self._finish()
            finally:
                self._close()
            self._write_index()
            if self.manifest is not None:
                folder = self._opened()
                manifest = self.manifest.stamped()
                replace(manifest, outputs=list_outputs(folder)).write(folder / MANIFEST_NAME)

    def _close(self) -> None:
        for file in self._files.values():
            file.close()

    def _start(self) -> None:
        """Open the files that are always there (hook)."""

    def _finish(self) -> None:
        """Write what is known only at the end, and complete ``_header`` (hook)."""

    def _opened(self) -> Path:
        if self._folder is None:
            raise RuntimeError(f"the writer of {self.path} is not open: use it in a `with` block")
        return self._folder

    def _array(
        self, name: str, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()
    ) -> NpyAppender:
        """The growing file `<name>.npy`, made at the first call."""
        if name not in self._files:
            self._files[name] = NpyAppender(self._opened() / f"{name}.npy", dtype, row_shape)
        return self._files[name]

    def _check_new(self, image_id: ImageId) -> None:
        self._opened()
        if not isinstance(image_id, str):
            raise ValueError(f"image id must be a str, got {image_id!r}: convert it with str()")
        if image_id in self._ids:
            raise ValueError(f"image {image_id!r} was added to {self.path} twice")

    def _write_index(self) -> None:
        content = {"format": self.format_name, **self._header, "image_ids": list(self._ids)}
        text = dump_json(content) + "\n"
        (self._opened() / INDEX_NAME).write_text(text, encoding="utf-8")


class ArrayFolder:
    """Read-only array artifact, mapped into memory; pickles as its path and reopens itself."""

    format_name: str = ""

    def __init__(self, path: Path) -> None:
        self.path = Path(path).absolute()  # a worker may have another current folder
        self.index = self._read_index()
        self.image_ids: list[ImageId] = self.index["image_ids"]
        self._rows = {image_id: row for row, image_id in enumerate(self.image_ids)}
        if len(self._rows) != len(self.image_ids):
            raise ArtifactError(f"{self.path / INDEX_NAME} lists an image id twice")
        self._map()

    @classmethod
    def open(cls: type[Store], path: Path) -> Store:
        """Map the files and check format, lengths and offsets, in time O(images).

        Raises:
            ArtifactError: wrong format, a cut off file or inconsistent offsets; names the file.
        """
        return cls(path)

    def __reduce__(self) -> tuple[Callable[[Path], Any], tuple[Path]]:
        return type(self).open, (self.path,)

    def __len__(self) -> int:
        """Number of images, those without rows included."""
        return len(self.image_ids)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._rows

    def _map(self) -> None:
        """Map and check the arrays (hook)."""

    def _row(self, image_id: ImageId) -> int:
        try:
            return self._rows[image_id]
        except KeyError:
            raise KeyError(
                f"image {image_id!r} is not in {self.path} ({len(self)} images): ids are str, and "
                "the artifact must have been made for this data set"
            ) from None

    def _npy(
        self,
        name: str,
        dtype: npt.DTypeLike,
        rows: int | None = None,
        row_shape: tuple[int, ...] = (),
    ) -> Array:
        return map_npy(self.path / f"{name}.npy", dtype, rows, row_shape)

    def _read_index(self) -> dict[str, Any]:
        path = self.path / INDEX_NAME
        if not path.is_file():
            raise ArtifactError(f"{path} is missing: {self.path} is no {self.format_name} artifact")
        index = read_json(path)
        found = index.get("format") if isinstance(index, dict) else None
        if found != self.format_name:
            raise ArtifactError(
                f"{path} has format {found!r}, expected {self.format_name!r}: make the artifact "
                "again with this version, or read it with the version that wrote it"
            )
        ids = index.get("image_ids")
        if not isinstance(ids, list) or not all(isinstance(image_id, str) for image_id in ids):
            raise ArtifactError(f"{path} must list `image_ids` as strings")
        return dict(index)
