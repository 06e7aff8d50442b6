"""Atomic files and folders, hashes, JSON."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import weaksam_d2.artifacts
from weaksam_d2.artifacts import (
    ArtifactError,
    atomic_folder,
    atomic_write,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)

REPO = Path(weaksam_d2.artifacts.__file__).parents[2]


def test_written_file_takes_the_real_name_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.json"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".json"
        temporary.write_text("x")
        assert not path.exists()
    assert path.read_text() == "x"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_failed_write_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_write_without_content_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="a.txt"), atomic_write(tmp_path / "a.txt"):
        pass


def test_folder_is_published_whole_and_refuses_an_existing_name(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_folder(path) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("1")
        assert not path.exists()
    assert (path / "sub" / "a").read_text() == "1"
    with pytest.raises(FileExistsError, match="out.*--overwrite"), atomic_folder(path):
        raise AssertionError("must not be entered")
    with atomic_folder(path, overwrite=True) as folder:
        (folder / "b").write_text("2")
        assert (path / "sub" / "a").exists()
    assert [p.name for p in path.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["empty folder", "file"])
def test_folder_never_replaces_what_appeared_meanwhile(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out"
    with pytest.raises(FileExistsError), atomic_folder(path):
        path.touch() if name == "file" else path.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_failed_overwrite_keeps_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "a").touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(path, overwrite=True) as folder:
        (folder / "b").touch()
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_killed_writer_leaves_no_artifact_under_the_real_name(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from weaksam_d2.artifacts import ProposalStoreWriter\n"
        "with ProposalStoreWriter(sys.argv[1]) as writer:\n"
        "    for i in range(10**9):\n"
        "        writer.add(str(i), [[0, 0, 1, 1]] * 500, image_size=(2, 2))\n"
    )
    path = tmp_path / "proposals"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=REPO)
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 2000 for p in tmp_path.glob(".proposals.tmp*/boxes.npy")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not path.exists()


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert sha256_json({"b": (1, 2), "a": 0.1}) == sha256_json({"a": 0.1, "b": [1, 2]})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})


def test_json_round_trip_keeps_order_and_precision(tmp_path: Path) -> None:
    score = np.float32(0.1)
    write_json(tmp_path / "a.json", {"b": score, "a": np.int64(3), "é": "ü"})
    content = read_json(tmp_path / "a.json")
    assert content == {"b": float(score), "a": 3, "é": "ü"}
    assert list(content) == ["b", "a", "é"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x"), b"x"])
def test_what_json_cannot_hold_is_refused_with_the_file(tmp_path: Path, value: object) -> None:
    with pytest.raises(ValueError, match="bad.json"):
        write_json(tmp_path / "bad.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", [b'{"a": [1, 2', b"", b"\xff\xfe\x00"])
def test_damaged_json_names_the_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "cut.json").write_bytes(data)
    with pytest.raises(ArtifactError, match="cut.json is not valid JSON"):
        read_json(tmp_path / "cut.json")


def test_artifacts_need_only_numpy_and_the_standard_library() -> None:
    code = (
        "import sys, weaksam_d2.artifacts\n"
        "import json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))\n"
    )
    output = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(REPO)!r})\n{code}"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    loaded = set(json.loads(output))
    assert not loaded & {"torch", "detectron2", "torchvision", "scipy", "cv2", "pycocotools"}
    assert "numpy" in loaded
