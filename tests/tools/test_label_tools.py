"""Tools that make and export label images, run by path in this process."""

import runpy
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    CamMaps,
    CamStoreWriter,
    LabelSpace,
    SemSegLabels,
    SemSegLabelsWriter,
    read_label_png,
)
from weaksam_d2.evaluation.label_submission import voc_palette

REPO = Path(__file__).resolve().parents[2]
Run = Callable[..., int]
NAME = "label_tool_weak"


@pytest.fixture()
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    # Its handlers would outlive the test and keep messages from others.
    monkeypatch.setattr("weaksam_d2.engine.cli.start_logging", lambda output: None)

    def call(tool: str, *words: Any) -> int:
        path = REPO / "tools" / tool
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(path), run_name="__main__")
        return int(left.value.code or 0)

    return call


@pytest.fixture()
def photographs(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Arguments that name a data set of two tagged images."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"images/{name}.png")
    (tmp_path / "tags.csv").write_text("file_name,tags\na.png,cat\nb.png,dog\n")
    entry = (NAME, str(tmp_path / "images"), str(tmp_path / "tags.csv"))
    yield "DATASETS.TAGGED", str((entry,)), "DATASETS.TRAIN", str((NAME,))
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


@pytest.fixture()
def cams(tmp_path: Path) -> Path:
    with CamStoreWriter(
        tmp_path / "cams", class_names=["cat", "dog"], network="CNN", scales=(1.0,)
    ) as writer:
        for row, image_id in enumerate("ab"):
            maps = np.random.default_rng(row).random((1, 2, 3)).astype(np.float32)
            writer.add(image_id, CamMaps((40, 60), np.array([row]), (maps,)))
    return tmp_path / "cams"


def test_labels_are_made_in_shards_and_exported_in_colors(
    tmp_path: Path,
    run: Run,
    photographs: tuple[str, ...],
    cams: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "labels.yaml").write_text("WEAKSAM: {LABELS: {BACKGROUND: 'power:1'}}\n")
    common = ("--config-file", tmp_path / "labels.yaml", "--input", cams)
    for name, flags in (
        ("labels", ()),
        ("shards", ("--num-shards", 2, "--shard", 1, "--part-size", 1)),
        ("shards", ("--num-shards", 2, "--shard", 0, "--part-size", 1)),
    ):
        output = ("--output", tmp_path / name)
        assert run("generate_labels.py", *common, *output, *flags, *photographs) == 0
    printed = capsys.readouterr().out
    assert "'images': 2" in printed and "shard 1 of 2 is done; other shards owe parts" in printed
    labels, shards = (SemSegLabels.open(tmp_path / name) for name in ("labels", "shards"))
    assert labels.image_ids == ["a", "b"]
    for image_id in labels.image_ids:
        assert labels.path(image_id).read_bytes() == shards.path(image_id).read_bytes()
    preview = ("--input", tmp_path / "labels", "--output", tmp_path / "colors")
    assert run("export_labels.py", *preview) == 0
    with Image.open(tmp_path / "colors/preview/b.png") as image:
        colors = np.asarray(image.convert("RGB"))
    assert np.array_equal(colors, voc_palette()[labels["b"]])


def test_usage_errors_and_missing_inputs_have_their_exit_codes(
    tmp_path: Path,
    run: Run,
    photographs: tuple[str, ...],
    cams: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "labels.yaml").write_text("SEED: 1\n")
    common = ("--config-file", tmp_path / "labels.yaml", "--output", tmp_path / "out")
    assert run("generate_labels.py", *common, "--masks", tmp_path / "none") == 2
    assert run("generate_labels.py", *common, *photographs) == 1
    assert "--input is missing" in capsys.readouterr().err
    wrong = (*photographs, "WEAKSAM.LABELS.CONFIDENCE", "0.9")
    assert run("generate_labels.py", *common, "--input", cams, *wrong) == 1
    assert "only a CRF gives probabilities" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def voc_labels(path: Path, label: np.ndarray) -> Path:
    space = LabelSpace("voc", [f"class {i}" for i in range(20)])
    facts = {"system": "S2C", "base": "paper", "supervision": "image_labels"}
    with SemSegLabelsWriter(path, space=space, **facts) as writer:
        writer.add("2008_000001", label)
    return path


def test_the_vocs_server_gets_palette_images_in_its_own_folders(tmp_path: Path, run: Run) -> None:
    label = np.array([[0, 1, 20], [5, 0, 0]], np.uint8)
    words = ("--input", voc_labels(tmp_path / "labels", label), "--format", "voc")
    archive = tmp_path / "voc.tar.gz"
    assert run("export_labels.py", *words, "--output", tmp_path / "o", "--archive", archive) == 0
    path = tmp_path / "o/results/VOC2012/Segmentation/comp6_test_cls/2008_000001.png"
    with Image.open(path) as image:
        assert image.mode == "P" and image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    assert np.array_equal(read_label_png(path), label)
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert names == ["results/VOC2012/Segmentation/comp6_test_cls/2008_000001.png"]


def test_ignored_pixels_go_to_the_server_only_if_that_is_asked_for(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.array([[0, 255, 20]], np.uint8)
    words = ("--input", voc_labels(tmp_path / "labels", label), "--format", "voc")
    assert run("export_labels.py", *words, "--output", tmp_path / "o") == 1
    assert "have 1 ignored pixels" in capsys.readouterr().err and not (tmp_path / "o").exists()
    flags = ("--ignored", "background", "--competition", "comp5", "--image-set", "val")
    assert run("export_labels.py", *words, "--output", tmp_path / "o", *flags) == 0
    path = tmp_path / "o/results/VOC2012/Segmentation/comp5_val_cls/2008_000001.png"
    assert read_label_png(path).tolist() == [[0, 0, 20]]


def test_foreign_folders_need_a_data_set_and_all_of_its_images(
    tmp_path: Path, run: Run, photographs: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "foreign").mkdir()
    Image.fromarray(np.array([[0, 2]], np.uint8)).save(tmp_path / "foreign/a.png")
    words = ("--input", tmp_path / "foreign", "--output", tmp_path / "o")
    assert run("export_labels.py", *words) == 1
    assert "say which label space" in capsys.readouterr().err
    assert run("export_labels.py", *words, "--dataset", NAME, *photographs) == 1
    assert "image 'b' is not in" in capsys.readouterr().err
    assert run("export_labels.py", *words, "--format", "voc", "--dataset", NAME, *photographs) == 1
    assert "PASCAL VOC has 21" in capsys.readouterr().err


def test_the_palette_is_that_of_the_development_kit() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 3: (128, 128, 0), 8: (64, 0, 0)}
    known |= {15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: tuple(voc_palette()[i].tolist()) for i in known} == known
    assert len({tuple(color) for color in voc_palette().tolist()}) == 256
