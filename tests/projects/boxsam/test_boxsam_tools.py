"""The project's tools, run by path in this process."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import SemSegLabels, read_json

REPO = Path(__file__).resolve().parents[3]
CONFIG = REPO / "projects" / "BoxSAM" / "configs" / "boxsam_voc12.yaml"
Run = Callable[..., int]


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
def options(animals: str, clip_folder: Path, dino_folder: Path) -> tuple[str, ...]:
    return (
        *("DATASETS.TRAIN", str((animals,)), "WEAKSAM.SAM.BACKEND", "FakeSam"),
        *("BOXSAM.TAGGER.CLIP", str(clip_folder), "BOXSAM.DETECTOR.MODEL", str(dino_folder)),
    )


def test_tags_are_scored_and_then_selected_for_the_whole_set(
    run: Run, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tags, labels = tmp_path / "tags", tmp_path / "labels"
    score = ("--config-file", CONFIG, "--only", "tags", "--output", tags)
    assert run("evaluate_boxsam.py", *score, *options) == 0
    assert "mAP" in capsys.readouterr().out
    assert set(read_json(tags / "figures.json")) == {"dataset", "images", "tags"}
    assert run("evaluate_boxsam.py", *score, *options) == 2  # it is there
    topn = ("BOXSAM.TAGGER.SELECTION", "per_class_topn", "BOXSAM.TAGGER.TOP_N", 1)
    make = ("--config-file", CONFIG, "--input", tags / "tag_scores.json", "--output", labels)
    assert run("generate_labels.py", *make, *options, *topn) == 0
    made = SemSegLabels.open(labels)
    assert made.system == "BoxSAM" and made.supervision == "none"
    assert sum(len(made.entry(image_id)["tags"]) for image_id in made.image_ids) == 3


def test_missing_weights_are_an_error_that_says_what_to_do(
    run: Run, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--config-file", CONFIG, "--only", "boxes", "--output", tmp_path / "figures")
    missing = ("BOXSAM.DETECTOR.MODEL", str(tmp_path / "nowhere"))
    assert run("evaluate_boxsam.py", *words, *options, *missing) == 1
    assert "tools/download_boxsam.py" in capsys.readouterr().err


def test_downloads_print_where_they_went(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import huggingface_hub

    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert run("download_boxsam.py", "--only", "detector") == 0
    line = f"detector IDEA-Research/grounding-dino-tiny: {tmp_path}"
    assert capsys.readouterr().out.splitlines() == [line]

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert run("download_boxsam.py") == 1
    assert "no connection" in capsys.readouterr().err
