"""Writing pickles of lists of arrays piece by piece, for every reader there is."""

import pickle
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

__all__ = ["PickleStream"]


class PickleStream:
    """Write one dict of plain values, or one list, whose lists of arrays do not fit into memory.

    Protocol 3, which every Python 3 reads; and the names of numpy's parts that both numpy 1 and 2
    know, while numpy 2 itself writes names that numpy 1 does not have. The bytes depend on the
    content only.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "wb")  # noqa: SIM115
        self._memo: dict[str, bytes] = {}

    def __enter__(self) -> "PickleStream":
        self._file.write(pickle.PROTO + bytes([3]))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._file.write(pickle.STOP)
        self._file.close()

    def open_dict(self) -> None:
        """Begin a dict: a key, a value, and so on, up to :meth:`close_dict`."""
        self._file.write(pickle.EMPTY_DICT + pickle.MARK)

    def close_dict(self) -> None:
        """End the dict."""
        self._file.write(pickle.SETITEMS)

    def open_list(self) -> None:
        """Begin a list: its entries, up to :meth:`close_list`."""
        self._file.write(pickle.EMPTY_LIST + pickle.MARK)

    def close_list(self) -> None:
        """End the list."""
        self._file.write(pickle.APPENDS)

    def value(self, value: Any) -> None:
        """Write text, a number, a boolean, None, an array, or a list or dict of them."""
        if isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, dict):
            self.open_dict()
            for key, item in value.items():
                self.value(key)
                self.value(item)
            self.close_dict()
        elif isinstance(value, (list, tuple)):
            self.open_list()
            for item in value:
                self.value(item)
            self.close_list()
        else:
            self._plain(value)

    def _plain(self, value: Any) -> None:
        assert value is None or isinstance(value, (str, int, float))
        data = pickle.dumps(value, protocol=3)[2:-1]  # without PROTO and STOP
        if isinstance(value, str):
            # The dump puts text at place 0 of the memo, which belongs to our own names.
            assert data.endswith(pickle.BINPUT + b"\0")
            data = data[:-2]
        self._file.write(data)

    def _array(self, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        assert array.dtype.kind in "biuf"
        self._once("build", b"cnumpy.core.multiarray\n_reconstruct\n")
        self._once("kind", b"cnumpy\nndarray\n")
        self._once("empty", pickle.BININT1 + b"\0" + pickle.TUPLE1)
        self._once("letter", pickle.SHORT_BINBYTES + b"\1b")
        self._file.write(pickle.TUPLE3 + pickle.REDUCE + pickle.MARK)
        self._plain(1)
        self._file.write(pickle.MARK)
        for side in array.shape:
            self._plain(side)
        self._file.write(pickle.TUPLE)
        self._dtype(array.dtype)
        self._file.write(pickle.NEWFALSE + pickle.BINBYTES + array.nbytes.to_bytes(4, "little"))
        self._file.write(array.data if array.size else b"")
        self._file.write(pickle.TUPLE + pickle.BUILD)

    def _dtype(self, dtype: "np.dtype[Any]") -> None:
        code = dtype.str[1:]
        text = pickle.BINUNICODE + len(code).to_bytes(4, "little") + code.encode()
        make = text + pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3 + pickle.REDUCE
        order = dtype.str[0].encode()
        state = b"(K\3" + pickle.BINUNICODE + (1).to_bytes(4, "little") + order + b"NNN"
        state += b"J\xff\xff\xff\xff" * 2 + b"K\0" + pickle.TUPLE + pickle.BUILD
        self._once(dtype.str, b"cnumpy\ndtype\n" + make + state)

    def _once(self, name: str, code: bytes) -> None:
        """Write code that makes an object, or, the next times, its place in the memo."""
        if name in self._memo:
            self._file.write(self._memo[name])
            return
        place = bytes([len(self._memo)])
        self._file.write(code + pickle.BINPUT + place)
        self._memo[name] = pickle.BINGET + place
