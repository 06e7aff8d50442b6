"""Pickles that are written piece by piece are those that pickle reads."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from weaksam_d2.artifacts import load_plain_pickle
from weaksam_d2.proposals.convert.pickle_stream import PickleStream


def test_a_stream_is_read_as_what_was_written(tmp_path: Path) -> None:
    arrays = [np.arange(6).astype(t).reshape(2, 3) for t in ("<f4", ">f8", "i1", "u2", "?")]
    value = {"a": [1, -7, 2**40, 1.5, True, None, "é", "a"], "a2": {"a": arrays}, "e": []}
    with PickleStream(tmp_path / "p.pkl") as stream:
        stream.value(value)
    for found in (pickle.loads((tmp_path / "p.pkl").read_bytes()),
                  load_plain_pickle(tmp_path / "p.pkl")):  # fmt: skip
        again = found["a2"].pop("a")
        assert found == {"a": value["a"], "a2": {}, "e": []}
        for old, new in zip(arrays, again, strict=True):
            np.testing.assert_array_equal(old, new)
            assert new.dtype == old.dtype.newbyteorder("=") and new.shape == (2, 3)
    data = (tmp_path / "p.pkl").read_bytes()
    assert b"numpy.core.multiarray" in data and b"numpy._core" not in data


def test_a_stream_is_read_without_our_code_and_without_warnings(tmp_path: Path) -> None:
    with PickleStream(tmp_path / "p.pkl") as stream:
        stream.value([np.ones((2, 4), np.float32)])
    code = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[0].sum())"
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "p.pkl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "8.0\n", done.stderr
