"""Rows of a `.npy` file, read when they are asked for."""

import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from weaksam_d2.artifacts.arrays import map_npy
from weaksam_d2.artifacts.io import Array, ArtifactError

_BLOCK_ROWS = 1 << 20


class RawRows:
    """Rows of a binary file of little-endian numbers; ``rows[start:stop]`` is a copy of its own.

    Read by position and not mapped: every page that a mapping ever touched counts as memory of
    the process, and a file that is cut off under a mapping kills it. Forked workers may share one
    object, for positions are not state.
    """

    def __init__(
        self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], *, offset: int = 0
    ) -> None:
        self.path = path
        self.shape = shape
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._row_bytes = self._dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        self._offset = offset
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        start, stop, step = rows.indices(len(self))
        assert step == 1, "rows are read in one piece"
        count = max(stop - start, 0)
        data = self._read(self._offset + start * self._row_bytes, count * self._row_bytes)
        return np.frombuffer(data, self._dtype).reshape(count, *self.shape[1:]).copy()

    def _read(self, position: int, length: int) -> bytes:
        parts = [os.pread(self._file, length, position)]
        while (done := sum(map(len, parts))) < length:  # one read returns 2 GiB at most
            parts.append(os.pread(self._file, length - done, position + done))
            if not parts[-1]:
                raise ArtifactError(
                    f"{self.path} ends before byte {position + length}: it was cut off while it "
                    "was in use"
                )
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def blocks(self, overlap: int = 0) -> Iterator[tuple[int, Array]]:
        """(first row, rows) of the whole file, a bounded number at a time.

        Each block repeats the last ``overlap`` rows of the one before.
        """
        for start in range(0, len(self), _BLOCK_ROWS):
            first = max(start - overlap, 0)
            yield first, self[first : start + _BLOCK_ROWS]


def open_npy(
    path: Path, dtype: npt.DTypeLike, rows: int | None = None, row_shape: tuple[int, ...] = ()
) -> RawRows:
    """Open a `.npy` file for reading by rows, after the checks of `map_npy`.

    Raises:
        ArtifactError: the file is missing, cut off, or of another dtype or shape.
    """
    mapped = map_npy(path, dtype, rows, row_shape)
    assert isinstance(mapped, np.memmap)
    return RawRows(path, mapped.dtype, mapped.shape, offset=mapped.offset)


def check_rising(path: Path, offsets: RawRows, last: int, what: str) -> None:
    """`check_offsets` for offsets that are too many to hold in memory.

    Raises:
        ArtifactError: they do not start at 0, fall, or do not end at ``last`` rows of ``what``.
    """
    problem = ""
    if (first := int(offsets[:1][0])) != 0:
        problem = f"starts at {first}, expected 0"
    elif (end := int(offsets[len(offsets) - 1 : len(offsets)][0])) != last:
        problem = f"ends at {end}, expected {last}, the rows of {what}"
    for start, values in offsets.blocks(overlap=1) if not problem else ():
        falls = np.flatnonzero(values[1:] < values[:-1])
        if len(falls):
            row = int(falls[0])
            problem = f"falls from {values[row]} to {values[row + 1]} at row {start + row + 1}"
            break
    if problem:
        raise ArtifactError(f"{path} {problem}: the artifact is inconsistent, write it again")
