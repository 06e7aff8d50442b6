"""Pickles, and `.npy` files with one, are read and never run."""

import copyreg
import io
import os
import pickle
import struct
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import (
    ForeignFileError,
    UnsafePickleError,
    load_plain_npy,
    load_plain_pickle,
)

PLAIN = {"text": "é", "bytes": b"\xff\x00", "none": b"", "big": 2**70, "list": [1.5, None, True]}


def save(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f4", ">f8", "u1", "u2", "i8", "?", "f2", "S5", "U4", ">U3"])
def test_plain_data_of_every_protocol_is_read_as_pickle_reads_it(
    tmp_path: Path, protocol: int, dtype: str
) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    arrays = [array, array[:0], array[:, :0], np.asfortranarray(array), np.array(array[0, 0])]
    data = {**PLAIN, "arrays": arrays, "again": array, "scalar": array[0, 1]}
    path = save(tmp_path, pickle.dumps(data, protocol))
    found, expected = load_plain_pickle(path), pickle.loads(path.read_bytes())
    assert {key: found[key] for key in PLAIN} == PLAIN
    assert found["again"] is found["arrays"][0]
    for ours, theirs in zip(found["arrays"], expected["arrays"], strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)
    assert type(found["scalar"]) is type(expected["scalar"])
    assert found["scalar"] == expected["scalar"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_ordered_dict_is_plain(tmp_path: Path, protocol: int) -> None:
    data = OrderedDict([("b", 1), ("a", [2])])
    found = load_plain_pickle(save(tmp_path, pickle.dumps(data, protocol)))
    assert found == data and list(found) == ["b", "a"]


def test_pickle_of_python_2_and_numpy_1_is_read(tmp_path: Path) -> None:
    # {"boxes": [array([[1, 2, 3, 4]], dtype=uint16)]}, as Python 2 writes it in protocol 2.
    data = (
        b"\x80\x02}q\x00U\x05boxesq\x01]q\x02cnumpy.core.multiarray\n_reconstruct\nq\x03"
        b"cnumpy\nndarray\nq\x04K\x00\x85U\x01bq\x05\x87Rq\x06(K\x01K\x01K\x04\x86"
        b"cnumpy\ndtype\nq\x07U\x02u2K\x00K\x01\x87Rq\x08(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x08\x01\x00\x02\x00\x03\x00\x04\x00tbas."
    )
    (found,) = load_plain_pickle(save(tmp_path, data))["boxes"]
    assert found.dtype == np.uint16 and found.tolist() == [[1, 2, 3, 4]]


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def attacks(sentinel: Path) -> dict[str, bytes]:
    """Pickles that make the sentinel file, or would, if anything of them ran."""
    order = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w')"
    system = Reduced(os.system, order)
    objects = np.empty(1, object)
    objects[0] = system
    name = os.system.__module__.encode()  # posix
    by_extension = pickle.PROTO + b"\x02" + pickle.EXT1 + b"\xf0" + text(order)
    call = pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
    found = {
        "eval": pickle.dumps(Reduced(eval, code)),
        "exec": pickle.dumps(Reduced(exec, code)),
        "import": pickle.dumps(Reduced(__import__, "antigravity")),
        "getattr": pickle.dumps(Reduced(getattr, "a", "upper")),
        "popen": pickle.dumps(Reduced(os.popen, order)),
        "in an object array": pickle.dumps({"boxes": objects}),
        "in a list in a dict": pickle.dumps({"boxes": [[1, [system]]]}),
        "in arguments": pickle.dumps(Reduced(list, [system])),
        "as a key": pickle.dumps({Reduced(str, "a"): 1}),
        "copyreg": b"ccopyreg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        "copy_reg": b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR.",
        "a class": pickle.dumps(Path("a")),
        "a type": pickle.dumps(dict),
        "a function": pickle.dumps(load_plain_pickle),
        "dotted name": b"\x80\x04" + text("numpy") + text("dtype.__init__") + b"\x93.",
        "dotted module": b"\x80\x04"
        + text("numpy.core.multiarray._reconstruct")
        + text("__class__")
        + b"\x93.",
        "other module": b"\x80\x04" + text("os") + text("dtype") + b"\x93.",
        "long name": b"c" + b"a" * 5000 + b"\n" + b"b" * 5000 + b"\n.",
        "inst": b"(S'" + order.encode() + b"'\ni" + name + b"\nsystem\n.",
        "obj": b"(c" + name + b"\nsystem\nS'" + order.encode() + b"'\no.",
        "newobj": b"\x80\x02c" + name + b"\nsystem\n" + text(order) + b"\x85\x81.",
        "newobj_ex": b"\x80\x04c" + name + b"\nsystem\n" + text(order) + b"\x85}\x92.",
        "allowed name by newobj": b"\x80\x02cnumpy\ndtype\n" + text("f4") + b"\x85\x81.",
        "extension": by_extension + call,
        "extension 2": pickle.EXT2 + b"\xf0\x00" + text(order) + call,
        "extension 4": pickle.EXT4 + b"\xf0\x00\x00\x00" + text(order) + call,
        "persistent id": b"Psecret\n.",
        "binary persistent id": text("secret") + b"Q.",
        "outer buffer": b"\x80\x05\x97.",
        "state of a stand-in": b"cnumpy\ndtype\n}" + text("__defaults__") + b")sb.",
        "items of a stand-in": b"cnumpy\ndtype\n" + text("a") + b"K\x01s.",
        "call of an array": b"cnumpy\nndarray\n)R.",
        "call of text": text("a") + b")R.",
        "call with a list": b"ccollections\nOrderedDict\n]R.",
        "other encoding": b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.",
        "records": pickle.dumps(np.zeros(1, [("a", "f4")])),
        "dates": pickle.dumps(np.zeros(1, "M8[s]")),
        "objects": pickle.dumps(np.array([None])),
        "object type": b"cnumpy\ndtype\n" + text("O8") + b"\x85R.",
        "subclass": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nmatrix\nK\x00\x85C\x01b\x87R.",
        "a set": pickle.dumps({1}),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found[f"system {protocol}"] = pickle.dumps({"boxes": system}, protocol)
    return found


NAMES = sorted(attacks(Path("sentinel")))


@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "ran"
    path = save(tmp_path, attacks(sentinel)[name])
    known, extensions = set(sys.modules), dict(copyreg._inverted_registry)  # type: ignore[attr-defined]
    copyreg.add_extension(os.system.__module__, "system", 0xF0)
    try:
        with pytest.raises(UnsafePickleError) as error:
            load_plain_pickle(path)
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 0xF0)
    assert not sentinel.exists()
    assert "antigravity" not in set(sys.modules) - known
    assert extensions == copyreg._inverted_registry  # type: ignore[attr-defined]
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 600 + len(str(path))


def test_the_attacks_do_run_where_they_are_not_refused(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    for name in ("eval", "system 0", "system 4", "in an object array", "in a list in a dict"):
        pickle.loads(attacks(sentinel)[name])
        assert sentinel.exists(), name
        sentinel.unlink()


def bombs() -> dict[str, bytes]:
    """Small files that ask for much."""
    copies = b"c_codecs\nencode\nq\x00X" + struct.pack("<I", 60000) + b"a" * 60000
    copies += b"q\x01" + text("latin1") + b"q\x02](" + b"h\x00h\x01h\x02\x86R" * 5000 + b"e."
    return {
        "bytes": b"\x80\x03B\xff\xff\xff\xff.",
        "bytes 8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
        "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".",
        "memo": b"\x80\x02Nr\xff\xff\xff\xff.",
        "array": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R("
        b"K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftcnumpy\ndtype\n" + text("f8") + b"\x85R"
        b"\x89C\x00tb.",
        "text type": b"cnumpy\ndtype\n" + text("U999999999") + b"\x85R.",
        "bytes by count": b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
        "copies": copies,
        "keys": b"(" + b"K\x01q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"K\x01d.",
        "digits": b"L" + b"9" * 50000 + b"L\n.",
    }


@pytest.mark.parametrize("name", sorted(bombs()))
def test_a_bomb_is_refused_before_memory_or_time_is_spent(tmp_path: Path, name: str) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = save(tmp_path, bombs()[name])
    if name == "memo":  # not even a trap for a machine whose memo is a dict
        assert load_plain_pickle(path) is None
    else:
        with pytest.raises(ForeignFileError, match=r"file\.pkl"):
            load_plain_pickle(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"N", b".", b"hello", b"\x80\x09N.", b"\x1f\x8b" * 9]
)
def test_what_is_no_pickle_is_named(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ForeignFileError, match=r"file\.pkl is not a readable pickle"):
        load_plain_pickle(save(tmp_path, data))


def test_every_truncation_is_named(tmp_path: Path) -> None:
    data = pickle.dumps({"boxes": [np.zeros((2, 4), np.float32)], "ids": ["a"]})
    for length in range(len(data)):
        with pytest.raises(ForeignFileError):
            load_plain_pickle(save(tmp_path, data[:length]))


def npy(pickled: bytes, descr: str = "|O", shape: tuple[int, ...] = ()) -> bytes:
    """A `.npy` file of these bytes after its header."""
    file = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + pickled


MAPS = np.linspace(0, 1, 24).astype(np.float16).reshape(2, 3, 4)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_saved_dict_is_read_as_numpy_reads_it(tmp_path: Path, protocol: int) -> None:
    # The second dict has keys of numpy, and arrays that share their memory.
    for value in ({"keys": np.array([14, 3]), "maps": MAPS}, {np.int64(7): MAPS[0], 3: MAPS[1]}):
        path = save(tmp_path, npy(pickle.dumps(np.array(value, dtype=object), protocol)))
        found, expected = load_plain_npy(path), np.load(path, allow_pickle=True).item()
        assert list(found) == list(expected)
        for key, array in expected.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)


def test_what_numpy_saves_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", {4: np.asfortranarray(MAPS[0]), "e": {}})  # type: ignore[arg-type]
    found = load_plain_npy(tmp_path / "a.npy")
    np.testing.assert_array_equal(found[4], MAPS[0])
    assert found["e"] == {}
    np.save(tmp_path / "b.npy", {})  # type: ignore[arg-type]
    assert load_plain_npy(tmp_path / "b.npy") == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_malicious_npy_file_is_refused_and_nothing_runs(tmp_path: Path, name: str) -> None:
    sentinel = tmp_path / "ran"
    path = save(tmp_path, npy(attacks(sentinel)[name]))
    copyreg.add_extension(os.system.__module__, "system", 0xF0)
    try:
        with pytest.raises(ForeignFileError, match=r"file\.pkl") as error:
            load_plain_npy(path)
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 0xF0)
    assert not sentinel.exists()
    assert isinstance(error.value, UnsafePickleError) or name == "object type"


def test_a_call_within_the_saved_dict_is_refused_before_numpy_would_run_it(tmp_path: Path) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        sentinel = tmp_path / "ran"
        value = {"keys": Reduced(os.system, f"touch {sentinel}"), "maps": MAPS}
        path = save(tmp_path, npy(pickle.dumps(np.array(value, dtype=object), protocol)))
        with pytest.raises(UnsafePickleError, match=r"system, which is not plain data"):
            load_plain_npy(path)
        assert not sentinel.exists()
        np.load(path, allow_pickle=True)
        assert sentinel.exists()
        sentinel.unlink()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "value",
    [
        np.array([{}, {}], dtype=object),
        np.array([{}], dtype=object),
        np.array(None, dtype=object),
        np.array([[]], dtype=object),
        np.array({"inner": np.array({"a": 1}, dtype=object)}, dtype=object),
        np.array({"inner": np.array([None, "a"], dtype=object)}, dtype=object),
    ],
    ids=str,
)
def test_other_arrays_of_objects_are_refused(
    tmp_path: Path, value: np.ndarray, protocol: int
) -> None:
    data = pickle.dumps(value, protocol)
    with pytest.raises(UnsafePickleError, match="asks for an array of"):
        load_plain_npy(save(tmp_path, npy(data)))
    with pytest.raises(UnsafePickleError, match="asks for an array of"):
        load_plain_pickle(save(tmp_path, data))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a .npy file"),
        (pickle.dumps({}), "is not a .npy file"),
        (b"\x93NUMPY\x01\x00\x08\x00{'a': 1}", "is not a .npy file"),
        (b"\x93NUMPY\x07\x00\x08\x00{'a': 1}", "is not a .npy file"),
        (npy(b"\0" * 4, "<f4"), r"holds an array of float32 of shape \(\)"),
        (npy(pickle.dumps({}), shape=(1,)), r"holds an array of object of shape \(1,\)"),
        (npy(pickle.dumps({})), "holds a dict, expected an array with a dict in it"),
        (npy(b""), "is not a readable .npy file"),
    ],
)
def test_npy_files_of_something_else_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ForeignFileError, match=rf"file\.pkl {words}"):
        load_plain_npy(save(tmp_path, data))


def test_every_truncation_of_an_npy_file_is_named(tmp_path: Path) -> None:
    data = npy(pickle.dumps(np.array({0: MAPS[0]}, dtype=object)))
    for length in range(len(data)):
        with pytest.raises(ForeignFileError, match=r"file\.pkl"):
            load_plain_npy(save(tmp_path, data[:length]))
