"""Pickles and `.npy` files with a pickle, read without being run: plain data only."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from weaksam_d2.artifacts.foreign_errors import ForeignFileError, UnsafePickleError, shown

__all__ = ["load_plain_npy", "load_plain_pickle"]

_Machine: Any = pickle._Unpickler
# bool, signed, unsigned, float; bytes and text of a fixed length. Never objects or records.
_DTYPE = re.compile(r"[<>=|]?(?:[?]|b1|[iuf][1248]|[SaU]\d{1,9})")
_BUDGET = 4  # bytes that a pickle's calls may make, for each byte of the file
_FORBIDDEN = (
    *(pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX),
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID, pickle.BINPERSID),
    *(pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
)


def load_plain_pickle(path: Path) -> Any:
    """Load a pickle of any protocol, of Python 2 or 3 and numpy 1 or 2, that holds plain data.

    Allowed are None, bool, int, float, str, bytes, list, tuple, dict, OrderedDict, and numpy
    arrays and scalars of numbers or text; text of Python 2 is read as latin-1. What a pickle names
    is never imported: our own functions stand in for the few names that such data needs. Memory is
    bounded by a multiple of the file's size.

    Raises:
        UnsafePickleError: the pickle asks for anything else; names the file and what it asked for.
        ForeignFileError: the file is no pickle, or is damaged.
    """
    with open(path, "rb") as file:
        return _load(Path(path), file, "a readable pickle", "pickle.dump, uncompressed")


def load_plain_npy(path: Path) -> dict[Any, Any]:
    """Load what ``numpy.save(path, a_dict)`` wrote: an array of no dimension that holds a dict.

    What is allowed in the dict, and what a file may cost, is as for `load_plain_pickle`; arrays of
    objects are refused otherwise.

    Raises:
        UnsafePickleError: as `load_plain_pickle`.
        ForeignFileError: the file is no `.npy` file, is damaged, or holds something else.
    """
    path = Path(path)
    with open(path, "rb") as file:
        shape, dtype = _npy_header(path, file)
        if shape != () or dtype.kind != "O":
            raise ForeignFileError(
                f"{path} holds an array of {dtype} of shape {shape}, expected a dict as numpy.save "
                "writes it"
            )
        found = _load(path, file, "a readable .npy file", "numpy.save(path, a dict)", npy=True)
    if not isinstance(found, _Single):
        raise ForeignFileError(f"{path} holds {shown(found)}, expected an array with a dict in it")
    return found.value


def _npy_header(path: Path, file: BinaryIO) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    # A damaged header fails in any place of numpy's reader, as a pickle does.
    except Exception as error:
        raise ForeignFileError(
            f"{path} is not a .npy file ({type(error).__name__}: {error!s:.200})"
        ) from error
    return shape, dtype


def _load(path: Path, file: BinaryIO, what: str, writer: str, *, npy: bool = False) -> Any:
    size = path.stat().st_size
    try:
        return _PlainUnpickler(path, _LimitedFile(file, size), size, npy=npy).load()
    except ForeignFileError:
        raise
    # A damaged pickle fails in any place of the machine that reads it, in many ways.
    except Exception as error:
        raise ForeignFileError(
            f"{path} is not {what} ({type(error).__name__}: {error!s:.200}); "
            f"expected one written by {writer}"
        ) from error


class _LimitedFile:
    """A file that refuses to read more than it has, before memory for it is asked for."""

    def __init__(self, file: Any, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, count: int) -> bytes:
        left = self._size - self._file.tell()
        if count > left:
            raise pickle.UnpicklingError(f"asks for {count} bytes where {left} are left")
        data: bytes = self._file.read(count)
        return data

    def readline(self) -> bytes:
        data: bytes = self._file.readline()
        return data


class _Array:
    """Stands for the class numpy.ndarray, which is named but never called."""


class _ObjectType:
    """Stands for numpy's type of objects, of which no array is ever made."""


class _Single(NamedTuple):
    """Stands for the array of no dimension that a `.npy` file has around its dict."""

    value: dict[Any, Any]


class _PlainUnpickler(_Machine):  # type: ignore[misc]
    """The standard library's machine in Python, with every way to foreign code closed.

    The machine in C is faster, but allocates what a file tells it to and resolves some codes
    without asking ``find_class``.
    """

    def __init__(self, path: Path, file: _LimitedFile, size: int, *, npy: bool = False) -> None:
        super().__init__(file, fix_imports=False, encoding="latin1")
        self._path = path
        self._budget = _BUDGET * size
        self._singles = 1 if npy else 0  # arrays around a dict that may still come
        stand_ins: dict[tuple[str, str], Callable[..., Any] | type] = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): self._dtype,
            ("_codecs", "encode"): self._encode,
            ("collections", "OrderedDict"): self._ordered_dict,
        }
        for core in ("numpy.core", "numpy._core"):
            stand_ins[f"{core}.multiarray", "_reconstruct"] = _empty_array
            stand_ins[f"{core}.multiarray", "scalar"] = self._scalar
            stand_ins[f"{core}.numeric", "_frombuffer"] = self._from_buffer
        # detectron2's own enumeration of box modes, an int.
        stand_ins["detectron2.structures.boxes", "BoxMode"] = _plain_int
        for builtins in ("builtins", "__builtin__"):
            stand_ins[builtins, "bytes"] = _no_bytes
        self._stand_ins = stand_ins

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an allowed name.

        Raises:
            UnsafePickleError: any other name.
        """
        try:
            return self._stand_ins[module, name]
        except KeyError:
            self._refuse(f"{module}.{name}")

    def _refuse(self, what: str) -> NoReturn:
        raise UnsafePickleError(
            f"{self._path} asks for {what:.200}, which is not plain data: it was not loaded and "
            "nothing of it was run. Save lists of numpy arrays of numbers, without classes"
        )

    def _spend(self, count: int) -> None:
        self._budget -= count
        if self._budget < 0:
            raise UnsafePickleError(
                f"{self._path} unfolds to more than {_BUDGET} times its size: it was not loaded"
            )

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        known = any(function is known for known in self._stand_ins.values())
        if not known or function is _Array or not isinstance(arguments, tuple):
            self._refuse(f"a call of {shown(function)}")
        self.stack[-1] = function(*arguments)

    def _load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, np.ndarray):
            self.stack[-1] = self._filled(target, state)
        elif isinstance(target, np.dtype):
            _set_byte_order(target, state)
        elif not isinstance(target, _ObjectType):  # the state of that one says nothing
            self._refuse(f"a state of {type(target).__name__}")

    def _load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            self._refuse(f"items in {shown(target)}")
        target.update(zip(map(_plain_key, items[::2]), items[1::2], strict=True))

    def _load_forbidden(self) -> NoReturn:
        self._refuse("an object, a set, an extension code or an outer object")

    dispatch = {
        **_Machine.dispatch,
        **dict.fromkeys((code[0] for code in _FORBIDDEN), _load_forbidden),
        pickle.DICT[0]: _load_dict,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.REDUCE[0]: _load_reduce,
        pickle.BUILD[0]: _load_build,
        pickle.BYTEARRAY8[0]: _load_bytearray8,
    }

    def _dtype(self, code: Any, align: Any = False, copy: Any = True) -> Any:
        if self._singles and code in ("O", "O4", "O8"):
            return _ObjectType()
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            self._refuse(f"an array of type {shown(code)}")
        return np.dtype(code, False, True)  # a copy: its byte order is set in place

    def _encode(self, text: str, encoding: str = "") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            self._refuse(f"the encoding {shown(encoding)}")
        self._spend(len(text))
        return text.encode("latin1")

    def _ordered_dict(self, items: Sequence[Any] = ()) -> "OrderedDict[Any, Any]":
        self._spend(len(items))
        return OrderedDict((_plain_key(key), value) for key, value in items)

    def _scalar(self, dtype: "np.dtype[Any]", data: Any) -> Any:
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2
        return self._array(data, dtype, (), "C")[()]

    def _from_buffer(
        self, data: Any, dtype: "np.dtype[Any]", shape: Any, order: str = "C"
    ) -> np.ndarray:
        return self._array(data, dtype, shape, order)

    def _filled(self, target: np.ndarray, state: Any) -> np.ndarray | _Single:
        *version, shape, dtype, fortran, data = state  # numpy 1.0 wrote no version
        if len(version) > 1 or version not in ([], [0], [1]):
            raise ValueError("array state of an unknown version")
        if isinstance(dtype, _ObjectType):
            return self._single(shape, data)
        data = data.encode("latin1") if isinstance(data, str) else data  # Python 2
        array = self._array(data, dtype, shape, "F" if fortran else "C")
        content: Any = (1, array.shape, array.dtype, bool(fortran), bytes(data))
        target.__setstate__(content)
        return target

    def _single(self, shape: Any, data: Any) -> _Single:
        held = data[0] if isinstance(data, list) and len(data) == 1 else None
        self._singles -= 1
        if self._singles < 0 or shape != () or not isinstance(held, dict):
            self._refuse("an array of objects other than the one around a dict")
        return _Single(held)

    def _array(self, data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
        if isinstance(data, list) or not isinstance(dtype, np.dtype):
            self._refuse("an array of objects")
        if not isinstance(data, (bytes, bytearray)):
            raise ValueError(f"array data of type {type(data).__name__}")
        shape = (shape,) if isinstance(shape, int) else shape
        if not isinstance(shape, tuple) or not all(type(n) is int for n in shape[:33]):
            raise ValueError(f"array shape {shown(shape)}")
        self._spend(len(data))
        count = prod(shape[:32])
        if len(shape) > 32 or min(shape, default=0) < 0 or count * dtype.itemsize != len(data):
            raise ValueError(f"{count} x {dtype} in {len(data)} bytes of an array")
        return np.frombuffer(data, dtype, count).reshape(shape, order="F" if order == "F" else "C")


def _empty_array(kind: Any, shape: Any = (0,), typecode: Any = b"b") -> np.ndarray:
    if kind is not _Array:
        raise ValueError("only plain arrays can be read, no subclass")
    return np.ndarray.__new__(np.ndarray, (0,), "b")  # its state follows


def _set_byte_order(dtype: "np.dtype[Any]", state: Any) -> None:
    order = state[1]
    if order not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
        raise ValueError(f"type with byte order {shown(order)}")
    sizes = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
    plain: Any = dtype
    plain.__setstate__((3, order, None, None, None, *sizes, 0))


def _plain_key(key: Any) -> Any:
    """Text, bytes or a number: the hash of nested tuples can take forever."""
    if not isinstance(key, (str, bytes, int, float, np.number)):
        raise ValueError(f"a key of type {type(key).__name__}")
    return key


def _no_bytes() -> bytes:
    return b""


def _plain_int(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"box mode {shown(value)}")
    return value
