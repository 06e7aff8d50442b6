"""The tool, run by its path in this process."""

import json
import runpy
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import CategoryMap, write_detections
from weaksam_d2.evaluation import read_voc_results

TOOL = Path(__file__).resolve().parents[2] / "tools" / "export_detections.py"
NAME = "export_test"
ROWS = [
    {"image_id": "7", "category_id": 2, "bbox": [1.5, 2.0, 9.75, 10.0], "score": 3e-7},
    {"image_id": "12", "category_id": 1, "bbox": [0.0, 0.0, 5.0, 5.0], "score": 0.5},
]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    monkeypatch.setattr("weaksam_d2.engine.cli.start_logging", lambda output: None)
    (tmp_path / "images").mkdir()
    for name in ("7", "12"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "tags.csv").write_text("7.png,dog\n12.png,cat\n")
    write_detections(tmp_path / "detections.json", ROWS)

    def call(*words: Any) -> int:
        tagged = f"(('{NAME}','{tmp_path}/images','{tmp_path}/tags.csv'),)"
        given = ["--input", tmp_path / "detections.json", "--dataset", NAME, *words]
        arguments = [str(TOOL), *map(str, given), "DATASETS.TAGGED", tagged]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(TOOL), run_name="__main__")
        return int(left.value.code or 0)

    yield call
    if NAME in DatasetCatalog.list():
        DatasetCatalog.remove(NAME)
        MetadataCatalog.remove(NAME)


def test_voc_layout_with_an_archive(run: Callable[..., int], tmp_path: Path) -> None:
    output, archive = tmp_path / "voc", tmp_path / "voc.tar.gz"
    words = ("--format", "voc", "--competition", "comp4", "--archive", archive)
    assert run("--output", output, *words) == 0
    back = read_voc_results(output, CategoryMap(["cat", "dog"]), competition="comp4")
    assert sorted(back, key=lambda row: row["score"]) == ROWS
    with tarfile.open(archive) as tar:
        assert "results/VOC2012/Main/comp4_det_test_dog.txt" in tar.getnames()
    assert run("--output", output, *words) == 1, "the folder exists"


def test_coco_results(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--output", tmp_path / "coco", "--format", "coco", "--name", "ours") == 0
    path = tmp_path / "coco" / "detections_test-dev2017_ours_results.json"
    assert [row["image_id"] for row in json.loads(path.read_text())] == [7, 12]
    segm = ("--format", "coco", "--task", "segm")
    assert run("--output", tmp_path / "masks", *segm) == 1
    assert not (tmp_path / "masks").exists()
