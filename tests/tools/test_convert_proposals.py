"""The tool, run by its path in this process (an own process costs seconds to start)."""

import json
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter, RunManifest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_proposals.py"
Run = Callable[..., int]


@pytest.fixture()
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    # Its handlers would outlive the test and keep messages from others.
    monkeypatch.setattr("weaksam_d2.engine.cli.start_logging", lambda output: None)

    def call(*words: Any) -> int:
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(TOOL), run_name="__main__")
        return int(left.value.code or 0)

    return call


@pytest.fixture()
def photographs(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Arguments that name a data set of two tagged images."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "tags.csv").write_text("file_name,tags\na.png,cat\nb.png,dog\n")
    entry = ("convert_tool_weak", str(tmp_path / "images"), str(tmp_path / "tags.csv"))
    yield "DATASETS.TAGGED", str((entry,))
    for catalog in (DatasetCatalog, MetadataCatalog):
        if entry[0] in catalog.list():
            catalog.remove(entry[0])


def test_a_file_goes_in_and_comes_out(
    tmp_path: Path, run: Run, photographs: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    file, store = tmp_path / "in.csv", tmp_path / "store"
    file.write_text("image_id,x1,y1,x2,y2,score\na,1,2,3,4,0.5\na,0,0,60,40,0.75\nb,0,0,9,9,1\n")
    common = ("--from", "csv", "--input", file, "--dataset", "convert_tool_weak", "--source", "ss")
    assert run(*common, "--output", store, "--check", "--stats", *photographs) == 0
    printed = capsys.readouterr().out
    assert '"boxes": 3' in printed and "3 boxes of 2 images are sound" in printed
    assert ProposalStore.open(store)["a"].boxes.tolist() == [[0, 0, 60, 40], [1, 2, 3, 4]]
    manifest = RunManifest.read(store)
    assert manifest.counts["proposals"] == 3 and manifest.dataset["images"] == 2
    assert str(tmp_path) not in (store / "manifest.json").read_text()
    assert run(*common, "--to", "coco", "--output", tmp_path / "out.json", *photographs) == 0
    assert [row["image_id"] for row in json.loads((tmp_path / "out.json").read_text())] == [*"aab"]
    assert (tmp_path / "out.json.manifest.json").is_file()


def test_stores_are_merged_and_cut_down(tmp_path: Path, run: Run) -> None:
    for name in ("one", "two"):
        with ProposalStoreWriter(tmp_path / name) as writer:
            writer.add("a", [[1, 1, 9, 9], [0, 0, len(name), 3 + (name == "two")]],
                       image_size=(40, 60))  # fmt: skip
    inputs = ("--input", tmp_path / "one", tmp_path / "two")
    common = (*inputs, "--merge", "boxes", "--output", tmp_path / "both")
    assert run(*common, "--dedupe", "0.0625", "--top-k", "2") == 0
    store = ProposalStore.open(tmp_path / "both")
    assert store["a"].boxes.tolist() == [[1, 1, 9, 9], [0, 0, 3, 3]]
    assert run(*common) == 2  # it exists
    (tmp_path / "ids.txt").write_text("a\n")
    assert run(*common, "--overwrite", "--ids", tmp_path / "ids.txt", "--sources", "two") == 0
    assert np.array_equal(ProposalStore.open(tmp_path / "both")["a"].sources, [1, 1])


def test_wrong_usage_is_2_and_a_bad_file_1_with_its_reason(
    tmp_path: Path, run: Run, photographs: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    evil = tmp_path / "evil.pkl"
    evil.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    output = ("--output", tmp_path / "out")
    assert run("--from", "mmdet", "--input", evil, *output) == 2  # no data set
    assert run("--input", tmp_path / "x", tmp_path / "y", *output) == 2  # no --merge
    assert run("--input", tmp_path / "x") == 2  # nothing to do
    common = ("--from", "mmdet", "--input", evil, "--dataset", "convert_tool_weak", *output)
    assert run(*common, *photographs) == 1
    assert "UnsafePickleError" in (words := capsys.readouterr().err) and "os.system" in words
    assert not (tmp_path / "out").exists() and not Path("ran").exists()
    with ProposalStoreWriter(tmp_path / "bad") as writer:
        writer.add("a", [[0, 0, 1, 1]], image_size=(4, 4))
    np.save(tmp_path / "bad/boxes.npy", np.float32([[0, 0, 9, 9]]))
    assert run("--input", tmp_path / "bad", "--check") == 1
    assert "box 0 of image 'a'" in capsys.readouterr().err
