"""Figures of label maps and activation maps of a small VOC folder; which files may change them."""

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    CamMaps,
    CamStore,
    CamStoreWriter,
    SemSegLabels,
    read_json,
    write_label_png,
)
from weaksam_d2.cams import read_cam
from weaksam_d2.data import prepare_datasets, weak_records
from weaksam_d2.engine.analysis.label_figures import label_figures, threshold_curve
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.label_stages import labels_stage
from weaksam_d2.evaluation import truth_reader
from weaksam_d2.ops import class_counts, confusion_matrix, iou_per_class, mean_over_classes
from weaksam_d2.ops.label_maps import cam_to_label

SIZE = (12, 16)
IDS = ("a", "b", "c")
TAGS = {"a": ("cat",), "b": ("cat", "dog"), "c": ()}
VALUES = {"cat": 8, "dog": 12}  # of VOC's class masks
TOOL = Path(__file__).resolve().parents[3] / "tools" / "evaluate_labels.py"


def write_masks(root: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for image_id in IDS:
        values = [0, *(VALUES[tag] for tag in TAGS[image_id]), 255]
        mask = rng.choice(values, SIZE).astype(np.uint8)
        write_label_png(root / "SegmentationClass" / f"{image_id}.png", mask)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A VOC folder with class masks, and activation maps of its images."""
    voc = tmp_path / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "SegmentationClass"):
        (voc / folder).mkdir(parents=True)
    (voc / "ImageSets" / "Main" / "all.txt").write_text("\n".join(IDS) + "\n")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for image_id in IDS:
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(voc / f"JPEGImages/{image_id}.jpg")
        rows = "".join(f"<object><name>{tag}</name>{box}</object>" for tag in TAGS[image_id])
        (voc / f"Annotations/{image_id}.xml").write_text(f"<annotation>{rows}</annotation>")
    write_masks(voc, seed=0)
    rng = np.random.default_rng(1)
    arguments: dict[str, Any] = {"class_names": ["cat", "dog"], "network": "CNN", "scales": [1.0]}
    with CamStoreWriter(tmp_path / "cams", **arguments) as writer:
        for image_id in IDS:
            count = len(TAGS[image_id])
            coarse = rng.random((count, 6, 8)).astype(np.float32)
            writer.add(image_id, CamMaps(SIZE, np.arange(count), (coarse,)))
    known = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


def config(place: Path) -> Any:
    cfg = base_config()
    cfg.DATASETS.VOC = (("drawn", str(place / "voc"), "all", 2012, ("cat", "dog")),)
    cfg.WEAKSAM.LABELS.BACKGROUND = "constant:0.6"
    cfg.TEST.BOOTSTRAP = 10
    prepare_datasets(cfg)
    return cfg


def make_labels(cfg: Any, place: Path, name: str = "labels") -> Path:
    manifest = labels_stage(cfg, "drawn_weak", {"input": place / "cams"}, Placement(place / name))
    assert manifest is not None and manifest.counts["images"] == len(IDS)
    return place / name


def test_all_kinds_of_input_with_the_same_labels_have_the_same_figures(place: Path) -> None:
    cfg = config(place)
    folder = make_labels(cfg, place)
    inputs = {"labels": folder, "files": folder / "labels", "cams": place / "cams"}
    found = label_figures(cfg, inputs, "drawn_weak")
    assert (found["truth"], found["images"]) == ("drawn_labels", 3)
    rows = found["inputs"]
    assert rows["labels"] == rows["files"]
    assert rows["cams"].pop("background") == "constant:0.6"
    assert rows["labels"] == rows["cams"] and {"figures", "classes"} == set(rows["cams"])
    truth, matrix = truth_reader("drawn_weak"), np.zeros((3, 4), np.int64)
    for image_id in IDS:
        matrix += confusion_matrix(truth(image_id), SemSegLabels.open(folder)[image_id], 3)
    iou = 100 * iou_per_class(class_counts(matrix))
    assert rows["labels"]["figures"]["mIoU"] == pytest.approx(iou.mean())
    assert rows["labels"]["classes"]["dog"]["IoU"] == pytest.approx(iou[2])
    assert rows["labels"]["figures"]["mIoU_low"] <= iou.mean()


def test_parts_of_a_data_set_and_excluded_images(place: Path) -> None:
    cfg = config(place)
    part = single_dataset(cfg, "drawn_weak@2")
    found = label_figures(cfg, {"cams": place / "cams"}, part)
    assert (found["truth"], found["images"]) == ("drawn_labels@2", 2)
    (place / "left_out.txt").write_text("b\n")
    cfg.TEST.EXCLUDE_IDS = str(place / "left_out.txt")
    assert label_figures(cfg, {"cams": place / "cams"}, "drawn_weak")["images"] == 2


def test_the_curve_has_the_figure_of_every_threshold(place: Path) -> None:
    config(place)
    store, truth = CamStore.open(place / "cams"), truth_reader("drawn_weak")
    thresholds = np.arange(10) / 10
    curve = threshold_curve(store, truth, IDS, thresholds=thresholds)
    for threshold, value in zip(thresholds, curve["mIoU"], strict=True):
        matrix = np.zeros((3, 4), np.int64)
        for image_id in IDS:
            cam, classes = read_cam(store, image_id)
            label = cam_to_label(cam, classes, background=f"constant:{threshold}")
            matrix += confusion_matrix(truth(image_id), label, 3)
        expected = 100 * mean_over_classes(iou_per_class(class_counts(matrix)))
        assert value == pytest.approx(float(expected))
    assert curve["mIoU_oracle_threshold"] == max(curve["mIoU"])
    assert curve["mIoU"][int(10 * curve["oracle_threshold"])] == max(curve["mIoU"])


def test_what_is_not_of_these_classes_or_not_complete_is_refused(place: Path) -> None:
    cfg = config(place)
    folder = make_labels(cfg, place)
    with pytest.raises(ValueError, match="a threshold is chosen for CAMs only"):
        label_figures(cfg, {"labels": folder}, "drawn_weak", tune_threshold=True)
    (folder / "labels" / "b.png").rename(place / "b.png")
    with pytest.raises(ValueError, match=r"1 of 3 images .*\['b'\]"):
        label_figures(cfg, {"files": folder / "labels"}, "drawn_weak")
    with pytest.raises(ValueError, match="no folder with label images"):
        label_figures(cfg, {"voc": place / "voc"}, "drawn_weak")
    arguments: dict[str, Any] = {"class_names": ["cow"], "network": "CNN", "scales": [1.0]}
    with CamStoreWriter(place / "others", **arguments):
        pass
    with pytest.raises(ValueError, match="label space"):
        label_figures(cfg, {"cams": place / "others"}, "drawn_weak")


def test_labels_are_made_without_a_look_at_any_mask(place: Path) -> None:
    cfg = config(place)
    before, records = make_labels(cfg, place, "before"), weak_records("drawn_weak")
    figures = label_figures(cfg, {"x": before}, "drawn_weak")
    write_masks(place / "voc", seed=7)
    after = make_labels(cfg, place, "after")
    assert weak_records("drawn_weak") == records
    assert label_figures(cfg, {"x": before}, "drawn_weak") != figures  # the masks did change
    names = sorted(p.relative_to(before) for p in before.rglob("*") if p.suffix != "")
    assert Path("labels.json") in names and Path("labels/a.png") in names
    for name in names:
        if name.name != "manifest.json":  # has times
            assert (before / name).read_bytes() == (after / name).read_bytes(), name
    for path in (place / "voc" / "SegmentationClass").iterdir():
        path.unlink()
    make_labels(cfg, place, "without")


def run_tool(monkeypatch: pytest.MonkeyPatch, place: Path, *words: str) -> int:
    voc = f"(('drawn', '{place / 'voc'}', 'all', 2012, 'cat,dog'),)"
    options = ["WEAKSAM.LABELS.BACKGROUND", "constant:0.6", "DATASETS.VOC", voc]
    command = [str(TOOL), *words, "--dataset", "drawn_weak", *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(left.value.code or 0)


def test_the_tool_prints_a_table_and_writes_the_figures(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cams, output = str(place / "cams"), str(place / "out")
    words = ["--input", f"mine={cams}", "--output", output, "--tune-threshold-with-gt"]
    assert run_tool(monkeypatch, place, *words) == 0
    printed = capsys.readouterr().out
    figures = read_json(place / "out" / "figures.json")
    row = figures["inputs"]["mine"]
    assert "mIoU_oracle_threshold" not in json.dumps(row["figures"])
    assert row["threshold"]["mIoU_oracle_threshold"] >= row["figures"]["mIoU"]
    assert f"{row['figures']['mIoU']:.2f}" in printed and "never made into labels" in printed
    assert run_tool(monkeypatch, place, *words) == 2  # figures.json is there
    assert run_tool(monkeypatch, place, *words, "--overwrite") == 0
    assert run_tool(monkeypatch, place, "--input", str(place / "nowhere")) == 2
