"""The tools that make and export pseudo ground truth, run by path on a small drawn data set."""

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

from weaksam_d2.artifacts import RunManifest, read_pseudo_gt, write_detections

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., int]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "images").mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
    (tmp_path / "tags.csv").write_text('a.jpg,"cat,dog"\nb.jpg,dog\nc.jpg,\n')
    data = {
        "VERSION": 2,
        "DATASETS": {
            "TAGGED": [["pgt_tool", str(tmp_path / "images"), str(tmp_path / "tags.csv")]],
            "TRAIN": ["pgt_tool"],
        },
    }
    (tmp_path / "cfg.yaml").write_text(json.dumps(data))
    row = {"image_id": "a", "category_id": 1, "bbox": [0.0, 0.0, 10.0, 10.0], "score": 0.8}
    write_detections(tmp_path / "one.json", [row, {**row, "image_id": "b", "category_id": 2}])
    write_detections(tmp_path / "two.json", [{**row, "bbox": [0.0, 0.0, 12.0, 10.0], "score": 0.4}])
    known = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(place)
    for key in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(key, "0")  # or the tool starts its process once more

    def call(tool: str, *arguments: Any) -> int:
        path = REPO / "tools" / tool
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(path), run_name="__main__")
        return int(stopped.value.code or 0)

    return call


GENERATE = ("generate_pseudo_gt.py", "--config-file", "cfg.yaml")


def test_two_detectors_are_fused_and_named(
    place: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--output", "both", "--input", "one.json", "two.json")
    assert run(*GENERATE, *arguments, "WEAKSAM.PSEUDO_GT.FUSE", "wbf") == 0
    printed = capsys.readouterr().out
    assert "pairs_without_boxes: 1" in printed and "score 50%" in printed
    pgt = read_pseudo_gt(place / "both" / "pseudo_gt.json")
    scores = [(a["image_id"], a["category_id"], round(a["score"], 9)) for a in pgt.annotations]
    assert scores == [("a", 1, 0.6), ("b", 2, 0.4)]
    inputs = RunManifest.read(place / "both").inputs
    assert [entry["name"] for entry in inputs] == ["detections", "detections/1"]
    recorded = [entry["sha256"] for entry in pgt.info["weaksam"]["detections"]]
    assert recorded == [entry["sha256"] for entry in inputs]
    statistics = json.loads((place / "both" / "statistics.json").read_text())
    assert statistics == pgt.info["weaksam"]["statistics"]
    assert statistics["per_class"]["dog"]["pairs_without_boxes"] == 1


def test_a_second_call_changes_nothing_and_other_settings_stop(place: Path, run: Run) -> None:
    one = (*GENERATE, "--detections", "one.json", "--output", "pgt")
    assert run(*one) == 0
    before = (place / "pgt" / "pseudo_gt.json").stat()
    assert run(*one) == 0
    assert (place / "pgt" / "pseudo_gt.json").stat().st_mtime_ns == before.st_mtime_ns
    assert run(*one, "WEAKSAM.PSEUDO_GT.RULE", "sos") == 1
    assert run(*one, "--overwrite", "WEAKSAM.PSEUDO_GT.RULE", "sos") == 0
    assert read_pseudo_gt(place / "pgt" / "pseudo_gt.json").info["weaksam"]["rule"] == "sos"


def test_a_missing_file_is_wrong_usage(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*GENERATE, "--output", "pgt", "--detections", "none.json") == 2
    assert "none.json does not exist" in capsys.readouterr().err


def test_an_export_has_the_images_without_a_copy(place: Path, run: Run) -> None:
    assert run(*GENERATE, "--detections", "one.json", "--output", "pgt") == 0
    export = ("export_pseudo_gt.py", "--input", "pgt", "--images", "images")
    for layout, image in (("coco", "images/a.jpg"), ("voc", "JPEGImages/a.jpg"),
                          ("yolo", "images/train/a.jpg")):  # fmt: skip
        assert run(*export, "--to", layout, "--output", layout) == 0
        assert (place / layout / image).resolve() == place / "images" / "a.jpg"
    assert run(*export, "--to", "voc", "--output", "voc") == 1  # it is there already
    assert run(*export, "--to", "voc", "--output", "voc", "--overwrite", "--copy-images") == 0
    assert (place / "voc" / "JPEGImages" / "a.jpg").resolve().is_relative_to(place / "voc")
    assert (place / "images" / "a.jpg").is_file()  # the link went, not what it led to
    assert run("export_pseudo_gt.py", "--input", "pgt", "--to", "voc", "--output", "v",
               "--copy-images") == 2  # fmt: skip
