"""Reading MATLAB files of version 5 to 7 by scipy, after a look at what they would unfold to."""

import io
import struct
import zlib
from collections.abc import Collection, Iterator
from math import prod
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import ForeignFileError

__all__ = ["load_mat"]

_HEADER_BYTES = 128
_COMPRESSED, _MATRIX = 15, 14  # kinds of elements
_CELL, _PLAIN = 1, (4, *range(6, 16))  # classes of matrices: characters and numbers are plain
_MAX_DEPTH = 4  # cells in cells
# Whole numbers in MATLAB's doubles shrink to a twentieth; what shrank far more is a trap.
_MAX_RATIO, _SMALL_BYTES = 50, 1 << 25
_NOT_MAT = "expected a MATLAB file of version 5 to 7 (in MATLAB: save -v7)"


def load_mat(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The variables ``names`` that a MATLAB file has, arrays and cells as numpy arrays.

    Raises:
        ForeignFileError: the file is damaged, of another version, unfolds to far more than it
            holds, or one of the variables is not made of cells, numbers and text.
    """
    from scipy.io import loadmat  # half a second, and only MATLAB files need it

    path = Path(path)
    try:
        return dict(loadmat(io.BytesIO(_checked(path, names)), variable_names=list(names)))
    except ForeignFileError:
        raise
    # A damaged file fails in any place of scipy's reader, in many ways.
    except Exception as error:
        raise ForeignFileError(
            f"{path} is not readable ({type(error).__name__}: {error!s:.200}); {_NOT_MAT}"
        ) from error


def _checked(path: Path, names: Collection[str]) -> bytes:
    """The same file with these variables only, not compressed, all of them small enough.

    scipy unfolds without bounds, and makes cells before it looks for their content.
    """
    data = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack(f"{order}H", data[124:126]) != (0x0100,):
        raise ForeignFileError(f"{path} is no MATLAB file that can be read; {_NOT_MAT}")
    limit = _SMALL_BYTES + _MAX_RATIO * len(data)
    parts = [data[:_HEADER_BYTES]]
    for kind, element in _elements(path, data, order):
        if kind == _COMPRESSED:
            machine = zlib.decompressobj()
            element = machine.decompress(element[8:], limit)
            limit -= len(element)
            if machine.unconsumed_tail or limit <= 0:
                raise ForeignFileError(f"{path} unfolds to more than {_MAX_RATIO} times its size")
        inner, start, end = next(_tags(element, 0, len(element), order))
        if inner != _MATRIX:
            raise ForeignFileError(f"{path} holds an element of kind {inner}; {_NOT_MAT}")
        if _name(element, start, end, order) in names:
            _check_matrix(path, element, start, end, order, 0)
            parts.append(element)
    return b"".join(parts)


def _elements(path: Path, data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    position = _HEADER_BYTES
    while position < len(data):
        kind, length = struct.unpack_from(f"{order}II", data, position)
        end = position + 8 + length
        if end > len(data):
            raise ForeignFileError(f"{path} is cut off at byte {len(data)}, expected {end}")
        yield kind, data[position:end]
        position = end


def _tags(data: bytes, position: int, end: int, order: str) -> Iterator[tuple[int, int, int]]:
    """(kind, start, end) of the elements between two places, one after the other."""
    while position < end:
        tag = position
        (first,) = struct.unpack_from(f"{order}I", data, tag)
        if first >> 16:  # four bytes or less, in the tag itself
            kind, start, stop = first & 0xFFFF, tag + 4, tag + 4 + (first >> 16)
            position = tag + 8
        else:
            (length,) = struct.unpack_from(f"{order}I", data, tag + 4)
            kind, start, stop = first, tag + 8, tag + 8 + length
            position = stop + (-length) % 8
        if stop > end:
            raise ValueError(f"an element ends at {stop}, after its matrix at {end}")
        yield kind, start, stop


def _name(data: bytes, start: int, end: int, order: str) -> str:
    tags = _tags(data, start, end, order)
    _, _, (_, first, last) = next(tags), next(tags), next(tags)
    return data[first:last].decode("latin1")


def _check_matrix(path: Path, data: bytes, start: int, end: int, order: str, depth: int) -> None:
    """Refuse a matrix, or cells of it, with more entries than bytes, or of another class."""
    if start == end:
        return
    tags = _tags(data, start, end, order)
    (_, flags, _), (_, first, last), _ = next(tags), next(tags), next(tags)
    kind = struct.unpack_from(f"{order}I", data, flags)[0] & 0xFF
    if (kind != _CELL and kind not in _PLAIN) or depth > _MAX_DEPTH:
        raise ForeignFileError(
            f"{path} holds a structure, an object or cells in cells, expected cells of numbers"
        )
    sides = struct.unpack_from(f"{order}{(last - first) // 4}i", data, first)
    entry_bytes = 8 if kind == _CELL else 1
    if min(sides) < 0 or prod(sides[:32]) * entry_bytes > end - start:
        raise ForeignFileError(f"{path}: a matrix of {sides[:8]} entries has {end - start} bytes")
    if kind == _CELL:
        for inner, inner_start, inner_end in tags:
            if inner != _MATRIX:
                raise ValueError(f"a cell of kind {inner}")
            _check_matrix(path, data, inner_start, inner_end, order, depth + 1)
