"""predict.py and export_model.py, run by their paths in this process."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from weaksam_d2.artifacts import (
    CategoryMap,
    PseudoGroundTruth,
    SemSegLabels,
    read_detections,
    write_pseudo_gt,
)
from weaksam_d2.engine import cli

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / "configs/quick_schedules/faster_rcnn_lite0_roi_drop.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, one damaged file, and a checkpoint of a detector with random weights."""
    root = tmp_path_factory.mktemp("predict")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (60, 80)), ("b", (80, 70))):
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"photos/{name}.png")
    cfg = cli.base_config()
    cfg.merge_from_file(str(CONFIG))
    cfg.merge_from_list(list(map(str, small(root))))
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, root / "model.pth")
    return root


def small(root: Path) -> list[Any]:
    return [
        *("MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.WEIGHTS", ""),
        *("MODEL.TIMM.OUT_INDICES", "(2, 3)", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
        *("MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
        *("INPUT.MIN_SIZE_TEST", "96", "MODEL.WEIGHTS", root / "model.pth"),
    ]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., int]:
    for module in (
        "cli",
        "prediction.predictor_arguments",
    ):  # logging to the terminal stays as it is
        monkeypatch.setattr(f"weaksam_d2.engine.{module}.start_logging", lambda output: None)
    for key, value in cli.PROCESS_ENVIRONMENT.items():
        monkeypatch.setenv(key, value)  # else the tool would start this process again

    def call(tool: str, *words: Any) -> int:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, words)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(REPO / "tools" / tool), run_name="__main__")
        return int(left.value.code or 0)

    return call


def detector(root: Path) -> list[Any]:
    return ["--config-file", CONFIG, "--classes", "duck, swan", *small(root)]


def test_predict_says_what_failed_and_goes_on_where_it_was(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "c.png").write_bytes(b"no image")
    words = ["--input", folder / "photos", tmp_path / "c.png", "--output", tmp_path / "out"]
    words += ["--score-thresh", "0.3", *detector(folder)]
    assert run("predict.py", *words) == 1
    shown = capsys.readouterr()
    assert "1 of 3 inputs could not be read" in shown.err and "c.png" in shown.err
    assert "detections in 2 images" in shown.out
    rows = read_detections(tmp_path / "out/detections.json")
    assert {row["image_id"] for row in rows} == {"a", "b"}
    assert {row["category_id"] for row in rows} <= set(CategoryMap(["duck", "swan"]).dataset_ids)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/rows").iterdir()}
    Image.new("RGB", (40, 40)).save(tmp_path / "c.png")
    assert run("predict.py", *words) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert json.loads((tmp_path / "out/failures.json").read_text()) == {}
    assert run("predict.py", *words, "INPUT.MIN_SIZE_TEST", "128") == 1
    assert "predictions of other settings (config differ)" in capsys.readouterr().err


def test_a_pipeline_to_a_segmenter_gives_label_images(
    run: Callable[..., int],
    folder: Path,
    segmenter_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "c.png").write_bytes(b"no image")
    words = ["--pipeline", segmenter_run, "--input", folder / "photos", tmp_path / "c.png"]
    words += ["--output", tmp_path / "out"]
    assert run("predict.py", *words, "MODEL.DEVICE", "cpu") == 1
    shown = capsys.readouterr()
    assert "1 of 3 inputs could not be read" in shown.err and "c.png" in shown.err
    assert "classes in 2 images" in shown.out
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/labels").iterdir()}
    assert len(stamps) == 2
    Image.new("RGB", (40, 40)).save(tmp_path / "c.png")
    assert run("predict.py", *words, "MODEL.DEVICE", "cpu") == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    labels = SemSegLabels.open(tmp_path / "out")
    assert labels.image_ids == ["a", "b", "c"] and labels["b"].shape == (80, 70)
    out = ("--output", tmp_path / "preview")
    assert run("export_labels.py", "--input", tmp_path / "out", *out) == 0
    assert len(list((tmp_path / "preview/preview").iterdir())) == 3
    capsys.readouterr()
    for more in (("TEST.SEM_SEG_FLIP", "True"), ("INPUT.MIN_SIZE_TEST", "64")):
        assert run("predict.py", *words, "MODEL.DEVICE", "cpu", *more) == 1
        assert "predictions of other settings (config differ)" in capsys.readouterr().err


def test_a_segmenter_by_its_config_labels_as_in_its_pipeline(
    run: Callable[..., int], folder: Path, segmenter_run: Path, tmp_path: Path
) -> None:
    words = ["--input", folder / "photos", "--no-pictures", "--output"]
    assert run("predict.py", "--pipeline", segmenter_run, *words, tmp_path / "pipeline") == 0
    config = REPO / "configs/quick_schedules/deeplab_lite0.yaml"
    words = ["--config-file", config, "--classes", "duck, swan", *words, tmp_path / "config"]
    words += ["MODEL.DEVICE", "cpu", "MODEL.TIMM.NAME", "test_efficientnet"]
    words += ["MODEL.TIMM.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]
    words += ["INPUT.MIN_SIZE_TEST", "96", "MODEL.WEIGHTS"]
    assert run("predict.py", *words, segmenter_run / "segment/segmenter/model_final.pth") == 0
    for name in ("a.png", "b.png"):
        both = [(tmp_path / kind / "labels" / name).read_bytes() for kind in ("pipeline", "config")]
        assert both[0] == both[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--detector", "wsod"), "has no model 'wsod', it has: segmenter"),
        (("--score-thresh", "0.3"), "a segmenter labels every pixel"),
    ],
)
def test_what_a_segmenter_has_not_is_refused(
    run: Callable[..., int],
    folder: Path,
    segmenter_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    known = ["--pipeline", segmenter_run, "--input", folder / "photos"]
    assert run("predict.py", *known, "--output", tmp_path / "out", *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_segmenter_is_not_exported(
    run: Callable[..., int],
    folder: Path,
    segmenter_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--pipeline", segmenter_run, "--input", folder / "photos"]
    assert run("export_model.py", *words, "--output", tmp_path / "model.ts") == 1
    assert "has no model 'retrain', it has: segmenter" in capsys.readouterr().err


def test_export_writes_a_file_that_says_how_to_use_it(
    run: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--input", folder / "photos", "--output", tmp_path / "detector.ts"]
    assert run("export_model.py", *words, *detector(folder)) == 0
    assert "total, largest" in capsys.readouterr().out
    found = json.loads((tmp_path / "detector.ts.json").read_text())
    assert found["outputs"] == ["boxes", "scores", "classes"]
    assert found["input"]["shortest_side"] == 96 and found["input"]["channels"] == "RGB"
    assert [row["name"] for row in found["categories"]] == ["duck", "swan"]
    image = torch.from_numpy(np.asarray(Image.open(folder / "photos/b.png")).copy())
    boxes, scores, _ = torch.jit.load(tmp_path / "detector.ts")(image.permute(2, 0, 1))
    assert len(boxes) == len(scores) > 0


def test_split_clean_writes_two_lists_of_all_images_with_a_box(
    run: Callable[..., int], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tags.csv").write_text("a.png,duck\nb.png,swan\n")
    sizes = {"a": (60, 80), "b": (80, 70)}
    images = [
        {"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in sizes.items()
    ]
    info = {"weaksam": {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}}
    rows = [{"image_id": n, "category_id": 1, "bbox": [5, 5, 40, 40]} for n in sizes]
    classes = [{"id": 1, "name": "duck"}, {"id": 2, "name": "swan"}]
    write_pseudo_gt(tmp_path / "labels.json", PseudoGroundTruth(images, rows, classes, info))
    tagged = f"(('split_test','{folder / 'photos'}','{tmp_path / 'tags.csv'}'),)"
    words: list[Any] = ["--config-file", CONFIG, "--output", tmp_path / "clean", "--count"]
    data = ["DATASETS.TAGGED", tagged, "DATASETS.TRAIN", "('split_test',)"]
    data += ["DATASETS.PSEUDO_GT_TRAIN", f"('{tmp_path / 'labels.json'}',)", *small(folder)]
    known = set(DatasetCatalog.list())
    try:
        assert run("split_clean.py", *words, 3, *data) == 1
        assert "3 images, expected 1 to 2" in capsys.readouterr().err
        assert run("split_clean.py", *words, 1, *data) == 0
    finally:
        for name in set(DatasetCatalog.list()) - known:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    losses = json.loads((tmp_path / "clean/losses.json").read_text())["losses"]
    best = min(losses, key=losses.get)
    assert (tmp_path / "clean/clean.txt").read_text() == f"{best}\n"
    assert (tmp_path / "clean/rest.txt").read_text() == f"{({'a', 'b'} - {best}).pop()}\n"


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--pipeline", "x", "--config-file", "y"),
        ("--pipeline", "x", "--classes", "a"),
        ("--pipeline", "x", "KEY"),
    ],
)
@pytest.mark.parametrize("tool", ["predict.py", "export_model.py"])
def test_flags_that_contradict_each_other_are_a_usage_error(
    run: Callable[..., int], tool: str, words: tuple[str, ...]
) -> None:
    assert run(tool, "--input", "a.png", "--output", "out", *words) == 2


def test_a_config_has_one_model(run: Callable[..., int]) -> None:
    words = ("--config-file", "y", "--detector", "wsod")
    assert run("predict.py", "--input", "a.png", "--output", "out", *words) == 2
