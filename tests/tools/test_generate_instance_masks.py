"""The command line of tools/generate_instance_masks.py, in this process, with a fake SAM."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    PseudoGroundTruth,
    read_detections,
    read_pseudo_gt,
    write_detections,
    write_pseudo_gt,
)

REPO = Path(__file__).resolve().parents[2]
ROW = {"category_id": 1, "bbox": [2.0, 3.0, 10.0, 5.0], "score": 0.5}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = REPO / "tools" / "generate_instance_masks.py"
    spec = importlib.util.spec_from_file_location("generate_instance_masks_tool", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture()
def folder(tmp_path: Path) -> Iterator[Path]:
    """Two tagged images, a config for them, pseudo boxes and detections."""
    known = set(DatasetCatalog.list())
    (tmp_path / "photos").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / f"photos/{name}.png")
    (tmp_path / "tags.csv").write_text("a.png,cat\nb.png,cat\n")
    (tmp_path / "config.yaml").write_text(
        f"VERSION: 2\nDATASETS:\n  TAGGED: [[tool_masks, {tmp_path}/photos, {tmp_path}/tags.csv]]\n"
        "  TRAIN: [tool_masks]\nWEAKSAM:\n  SAM:\n    BACKEND: FakeSam\nMODEL:\n  DEVICE: cpu\n"
    )
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def arguments(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: Any) -> Any:
    monkeypatch.setattr(sys, "argv", ["generate_instance_masks.py", *map(str, words)])
    return tool.parse_args()


def test_pseudo_boxes_and_detections_get_masks(
    tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    common = ("--config-file", folder / "config.yaml")
    row = {**ROW, "image_id": "a"}
    images = [{"id": name, "file_name": f"{name}.png", "height": 20, "width": 30} for name in "ab"]
    info = {"weaksam": {"rule": "all", "parameters": {}, "detections_sha256": "0" * 64}}
    truth = PseudoGroundTruth(images, [row], [{"id": 1, "name": "cat"}], info)
    write_pseudo_gt(folder / "pgt.json", truth)
    words = (*common, "--input", folder / "pgt.json", "--output", folder / "masks")
    tool.main(arguments(tool, monkeypatch, *words))
    made = read_pseudo_gt(folder / "masks" / "pseudo_gt.json")
    assert [one["area"] for one in made.annotations] == [50] and len(made.images) == 2
    assert "'annotations': 1" in capsys.readouterr().out
    write_detections(folder / "found.json", [row])
    words = (*common, "--detections", folder / "found.json", "--output", folder / "found")
    tool.main(arguments(tool, monkeypatch, *words, "WEAKSAM.INSTANCE_MASKS.BOX", "mask"))
    (found,) = read_detections(folder / "found" / "detections.json")
    assert found["segmentation"] == made.annotations[0]["segmentation"]


def test_wrong_usage_is_told_at_once(
    tool: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    common = ("--config-file", folder / "config.yaml", "--output", folder / "masks")
    file = folder / "config.yaml"
    for words, message in (
        ((), "give either --input"),
        (("--input", file, "--detections", file), "give either --input"),
        (("--input", file, "--evaluate"), "--evaluate goes with"),
        (("--input", folder / "none.json"), "does not exist"),
        (("--input", file, "--proposals", folder / "none"), "is not a folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            arguments(tool, monkeypatch, *common, *words)
        assert stopped.value.code == 2 and message in capsys.readouterr().err
