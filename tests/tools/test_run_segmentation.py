"""From tags to a segmenter, by the real tool on rendered scenes with real SAM weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import ProposalStore, SemSegLabels
from weaksam_d2.data import read_image
from weaksam_d2.engine.prediction.choice import predictor_of_pipeline
from weaksam_d2.projects import add_all_configs

REPO = Path(__file__).resolve().parents[2]
TRAIN, TEST = "scenes_tiny_train_weak", "scenes_tiny_val_weak"


def run(data: Path, config: str, output: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    tool = str(REPO / "tools" / "run_pipeline.py")
    file = str(REPO / "configs" / "pipelines" / config)
    return subprocess.run(
        [sys.executable, tool, "--config-file", file, "--output", str(output), *map(str, words)],
        env={**os.environ, "DETECTRON2_DATASETS": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(mobile_sam: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of S2C and SEPL: the folder of its data, and its own."""
    data = tmp_path_factory.mktemp("segmentation")
    done = run(data, "scenes_quick_s2c.yaml", data / "run")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return data, data / "run"


def test_maps_labels_and_segmenter_have_their_figures(finished: tuple[Path, Path]) -> None:
    metrics = json.loads((finished[1] / "metrics.json").read_text())
    assert set(metrics["labels"]) == {"CAM", "CRF", "SEPL"}
    for figures in metrics["labels"].values():
        assert figures["mIoU_low"] <= figures["mIoU"] <= figures["mIoU_high"]
    assert {"mIoU", "mIoU_before", "train_mIoU"} <= set(metrics["segment"])
    assert {"sam_masks", "cams", "labels", "segment"} <= set(metrics["seconds"])


def test_sepl_changes_labels_only_to_classes_that_they_had(finished: tuple[Path, Path]) -> None:
    before, after = (SemSegLabels.open(finished[1] / "labels" / n) for n in ("CRF", "SEPL"))
    masks = ProposalStore.open(finished[1] / "sam_masks" / TRAIN)
    assert before.image_ids == after.image_ids == list(masks.image_ids)
    changed = 0
    for image_id in before.image_ids:
        assert set(np.unique(after[image_id])) <= {0, *np.unique(before[image_id])}
        changed += int((after[image_id] != before[image_id]).sum())
    assert changed > 0


def test_the_segmenter_labels_every_image(finished: tuple[Path, Path]) -> None:
    for name in (TRAIN, TEST):
        folder = finished[1] / "segment" / "segmenter" / "inference" / name / "labels"
        labels = SemSegLabels.open(folder)
        assert labels.image_ids
        assert all(labels[i].max() < labels.space.num_labels for i in labels.image_ids)


def test_the_segmenter_predicts_photographs_as_it_was_evaluated(
    finished: tuple[Path, Path],
) -> None:
    data, root = finished
    predictor = predictor_of_pipeline(root, extend=add_all_configs)
    labels = SemSegLabels.open(root / "segment/segmenter/inference" / TEST / "labels")
    folder = data / "scenes" / "tiny_val"
    for row in json.loads((folder / "annotations.json").read_text())["images"][:3]:
        image = read_image(folder / "images" / row["file_name"])
        assert np.array_equal(predictor(image)["labels"], labels[str(row["id"])])


def test_the_page_shows_maps_masks_labels_and_truth(finished: tuple[Path, Path]) -> None:
    page = (finished[1] / "report.html").read_text()
    for caption in ("SAM masks", "SEPL", "segmenter", "true labels", "Each class (%)"):
        assert caption in page
    assert str(finished[1]) not in page


def test_a_threshold_redoes_the_labels_that_it_decides_and_nothing_else(
    finished: tuple[Path, Path],
) -> None:
    data, output = finished
    before = {p: p.read_text() for p in output.rglob("manifest.json")}
    stages = ("--stages", "sam_masks,cams,labels")
    changed = run(data, "scenes_quick_s2c.yaml", output, *stages, "SEPL.T2", 0.9)
    assert changed.returncode == 0, changed.stderr[-2000:]
    redone = [p for p, text in before.items() if p.read_text() != text]
    assert {p.relative_to(output).parts[:2] for p in redone} == {("labels", "SEPL")}


def test_boxsam_on_given_boxes_ends_at_a_segmenter(finished: tuple[Path, Path]) -> None:
    data, _ = finished
    output = data / "boxsam"
    done = run(data, "scenes_quick_boxsam.yaml", output)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["labels"]["BoxSAM"]["mIoU"] > 40
    labels = SemSegLabels.open(output / "labels" / "BoxSAM")
    assert labels.supervision == "given_boxes"
    assert "mIoU" in metrics["segment"]
