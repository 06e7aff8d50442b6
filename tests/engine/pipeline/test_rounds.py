"""Self-training: rounds of labels and detectors, resumable, in figures and report."""

import json
from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import RunManifest, read_detections, read_pseudo_gt, sha256_file
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.pipeline import Pipeline
from weaksam_d2.engine.pipeline.rounds import check_rounds, complete_rounds, round_table


def test_round_one_is_the_pipeline_itself(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert layout.round(1) is layout
    assert layout.round(2).retrain == tmp_path / "rounds" / "2" / "retrain"
    assert complete_rounds(layout) == []


def test_the_second_detector_learns_from_what_the_first_one_detected(tiny_pipeline: Any) -> None:
    first, second = Layout(tiny_pipeline.root), Layout(tiny_pipeline.root).round(2)
    found = second.relabelled / "inference/tp_train_weak/detections.json"
    inputs = {row["name"]: row["sha256"] for row in RunManifest.read(second.relabelled).inputs}
    assert inputs == {"detector": sha256_file(first.retrain / "model_final.pth")}
    assert {row["image_id"] for row in read_detections(found)} <= set("abcd")
    labels = second.pseudo_gt("adaptive") / "pseudo_gt.json"
    assert read_pseudo_gt(labels).info["weaksam"]["detections_sha256"] == sha256_file(found)
    (given,) = RunManifest.read(second.retrain).inputs
    assert given["sha256"] == sha256_file(labels)
    weights = [sha256_file(one.retrain / "model_final.pth") for one in (first, second)]
    assert weights[0] != weights[1]


def test_every_round_has_a_row_of_figures_and_the_report_shows_them(tiny_pipeline: Any) -> None:
    rounds = json.loads((tiny_pipeline.root / "metrics.json").read_text())["rounds"]
    assert list(rounds) == ["1", "2"] == list(tiny_pipeline.metrics["rounds"])
    for figures in rounds.values():
        assert {"AP50", "labels_precision", "labels_recall"} <= set(figures)
    assert rounds["1"]["AP50"] == tiny_pipeline.metrics["retrain"]["AP50"]
    assert tiny_pipeline.metrics["seconds"]["rounds"] > 0
    page = (tiny_pipeline.root / "report.html").read_text()
    assert "Self-training" in page and "labels precision" in page


def test_a_finished_round_is_skipped_and_a_lost_one_done_again(tiny_pipeline: Any) -> None:
    manifests = sorted(tiny_pipeline.root.rglob("manifest.json"))
    before = {path: path.stat().st_mtime_ns for path in manifests}
    second = Layout(tiny_pipeline.root).round(2)
    weights = second.retrain / "model_final.pth"
    stamp = weights.stat().st_mtime_ns
    (second.retrain / "manifest.json").unlink()
    Pipeline(tiny_pipeline.settings)._rounds()
    changed = {path for path in manifests if path.stat().st_mtime_ns != before[path]}
    assert changed == {second.retrain / "manifest.json"}
    assert weights.stat().st_mtime_ns != stamp, "it was not trained again"
    assert complete_rounds(Layout(tiny_pipeline.root)) == [1, 2]


def test_no_round_is_refused(tiny_pipeline: Any) -> None:
    cfg = Pipeline(tiny_pipeline.settings).cfg.clone()
    cfg.PIPELINE.ROUNDS = 0
    with pytest.raises(ValueError, match="PIPELINE.ROUNDS is 0, expected 1"):
        check_rounds(cfg)


def test_the_table_has_a_dash_where_a_round_was_not_measured() -> None:
    columns, rows = round_table({"1": {"AP50": 1.5, "AP50_low": 1.0}, "2": {"labels_recall": 2.0}})
    assert columns == ["round", "AP50", "labels recall"]
    assert rows == [["1", 1.5, None], ["2", None, 2.0]]
