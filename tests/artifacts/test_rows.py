"""Rows read by position: equal to a mapping, and light."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import weaksam_d2.artifacts
from weaksam_d2.artifacts import ArtifactError, ProposalStoreWriter
from weaksam_d2.artifacts import rows as rows_module
from weaksam_d2.artifacts.rows import check_rising, open_npy

REPO = Path(weaksam_d2.artifacts.__file__).parents[2]


def save(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "a.npy", array)
    return tmp_path / "a.npy"


@pytest.mark.parametrize("shape", [(7,), (7, 4), (0, 4), (0,)])
@pytest.mark.parametrize("part", [(0, 7), (2, 5), (3, 3), (5, 99), (6, 2), (-2, None)])
def test_rows_are_those_of_the_array(
    tmp_path: Path, shape: tuple[int, ...], part: tuple[int, int | None]
) -> None:
    array = np.arange(np.prod(shape), dtype="<f4").reshape(shape)
    rows = open_npy(save(tmp_path, array), "f4", row_shape=shape[1:])
    found = rows[slice(*part)]
    np.testing.assert_array_equal(found, array[slice(*part)])
    assert found.dtype == np.float32 and found.flags.writeable and len(rows) == shape[0]


def test_blocks_are_the_whole_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_BLOCK_ROWS", 3)
    rows = open_npy(save(tmp_path, np.arange(8)), "i8")
    assert [(s, b.tolist()) for s, b in rows.blocks()] == [
        (0, [0, 1, 2]),
        (3, [3, 4, 5]),
        (6, [6, 7]),
    ]
    assert [s for s, _ in rows.blocks(overlap=1)] == [0, 2, 5]


def test_offsets_are_checked_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_BLOCK_ROWS", 2)
    for values, words in (
        ([0, 1, 5, 4, 9], "falls from 5 to 4 at row 3"),
        ([0, 2, 1, 4, 9], "falls from 2 to 1 at row 2"),
        ([1, 2, 3], "starts at 1"),
        ([0, 2, 3], "ends at 3, expected 9, the rows of b"),
    ):
        path = save(tmp_path, np.array(values))
        with pytest.raises(ArtifactError, match=words):
            check_rising(path, open_npy(path, "i8"), 9, "b")
    path = save(tmp_path, np.array([0, 0, 3, 9, 9]))
    check_rising(path, open_npy(path, "i8"), 9, "b")


def test_a_file_cut_off_in_use_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = save(tmp_path, np.zeros((100, 4), np.float32))
    rows = open_npy(path, "f4", row_shape=(4,))
    with open(path, "r+b") as file:
        file.truncate(500)
    assert len(rows[:5]) == 5
    with pytest.raises(ArtifactError, match="cut off while it was in use"):
        rows[50:60]


def test_a_tenth_of_coco_opens_at_once_and_reading_all_of_it_takes_no_memory(
    tmp_path: Path,
) -> None:
    images, per_image = 8_200, 213
    with ProposalStoreWriter(tmp_path / "p", source_names=("a",)) as writer:
        writer.add("seed", [[0, 0, 1, 1]], scores=[0], sources=[0], image_size=(40, 60))
    rows = images * per_image
    np.save(tmp_path / "p/boxes.npy", np.tile(np.float32([1, 2, 30.5, 40]), (rows, 1)))
    np.save(tmp_path / "p/scores.npy", np.zeros(rows, np.float32))
    np.save(tmp_path / "p/sources.npy", np.zeros(rows, np.uint8))
    np.save(tmp_path / "p/offsets.npy", np.arange(images + 1, dtype=np.int64) * per_image)
    np.save(tmp_path / "p/sizes.npy", np.tile(np.int32([40, 60]), (images, 1)))
    index = json.loads((tmp_path / "p/index.json").read_text())
    index["image_ids"] = [f"COCO_train2014_{i:012d}" for i in range(images)]
    (tmp_path / "p/index.json").write_text(json.dumps(index))
    code = (
        "import os, sys, time; sys.path.insert(0, sys.argv[2])\n"
        "from weaksam_d2.artifacts import ProposalStore\n"
        "page = os.sysconf('SC_PAGE_SIZE')\n"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]) * page\n"
        "before, start = rss(), time.perf_counter()\n"
        "store = ProposalStore.open(sys.argv[1])\n"
        "seconds = time.perf_counter() - start\n"
        "for image_id in store.image_ids: assert len(store[image_id]) == 213\n"
        "print(seconds, (rss() - before) / 2**20, 'torch' in sys.modules)\n"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    command = [sys.executable, "-c", code, str(tmp_path / "p"), str(REPO)]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    # All of COCO: below 1 s and 200 MB. The files of this store are 37 MB.
    assert float(output[0]) < 0.3
    assert float(output[1]) < 15
    assert output[2] == "False"
