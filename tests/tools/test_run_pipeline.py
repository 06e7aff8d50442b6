"""The real tools on rendered scenes with real SAM weights: whole road, kill and resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import ProposalStore, list_outputs

REPO = Path(__file__).resolve().parents[2]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "datasets")}


def command(tool: str, *words: Any) -> list[str]:
    return [sys.executable, str(REPO / "tools" / tool), *map(str, words)]


def run(tmp_path: Path, tool: str, *words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(tool, *words),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(mobile_sam: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """One whole run: its folder, that of its data, and what it printed."""
    tmp_path = tmp_path_factory.mktemp("pipeline")
    output = tmp_path / "run"
    config = REPO / "configs/pipelines/scenes_quick.yaml"
    done = run(tmp_path, "run_pipeline.py", "--config-file", config, "--output", output)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return tmp_path, output, done.stdout


def test_the_whole_road_gives_the_figures_of_the_contract(
    finished: tuple[Path, Path, str],
) -> None:
    _, output, _ = finished
    metrics = json.loads((output / "metrics.json").read_text())
    for method in ("weaksam", "selective_search"):
        assert set(metrics["proposals"][method]) == {
            "recall50",
            "recall75",
            "recall90",
            "per_image",
        }
    assert {"AP50", "CorLoc"} <= set(metrics["wsod"])
    for rule in ("adaptive", "top1"):
        assert set(metrics["pgt"][rule]) == {"precision", "recall", "boxes_per_image"}
    assert {"AP", "AP50", "AP50_without_roi_drop"} <= set(metrics["retrain"])
    assert "masks" not in metrics
    stages = {"cams", "prompts", "proposals", "wsod", "pseudo_gt", "retrain"}
    assert stages <= set(metrics["seconds"])
    assert metrics["proposals"]["weaksam"]["recall50"] > 30


def test_the_report_is_one_file_with_pictures(finished: tuple[Path, Path, str]) -> None:
    _, output, _ = finished
    page = (output / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 20
    assert "Selective Search" in page
    for foreign in ('src="http', 'href="http', str(output)):
        assert foreign not in page


def test_every_artifact_has_a_complete_manifest(finished: tuple[Path, Path, str]) -> None:
    _, output, _ = finished
    manifests = [json.loads(p.read_text()) for p in output.rglob("manifest.json")]
    assert len(manifests) >= 13
    assert {m["status"] for m in manifests} == {"complete"}
    assert not list(output.rglob("*.parts"))


def test_a_second_run_skips_what_is_done_and_a_setting_redoes_what_depends_on_it(
    finished: tuple[Path, Path, str],
) -> None:
    tmp_path, output, _ = finished
    config = REPO / "configs/pipelines/scenes_quick.yaml"
    common = ("run_pipeline.py", "--config-file", config, "--output", output)
    before = {p: p.read_text() for p in output.rglob("manifest.json")}
    again = run(tmp_path, *common)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {p: p.read_text() for p in output.rglob("manifest.json")} == before
    changed = run(
        tmp_path,
        *common,
        "--stages",
        "prompts,proposals,wsod,pseudo_gt",
        "WEAKSAM.PSEUDO_GT.SCORE_THRESH",
        "0.6",
    )
    assert changed.returncode == 0, changed.stderr[-2000:]
    assert "WEAKSAM.PSEUDO_GT.SCORE_THRESH was 0.3 and is 0.6" in changed.stdout + changed.stderr
    redone = {p.relative_to(output).parts[0] for p, text in before.items() if p.read_text() != text}
    assert redone == {"pseudo_gt"}


def test_a_killed_generation_resumes_to_identical_artifacts(
    mobile_sam: Path, tmp_path: Path
) -> None:
    config = REPO / "configs/pipelines/scenes_quick.yaml"
    arguments = [
        "--config-file",
        config,
        "DATASETS.TRAIN",
        "('scenes_demo_train_weak@70',)",
        "WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE",
        "2",
        "WEAKSAM.SAM.INPUT_SIZE",
        "256",
    ]

    def words(output: Path) -> list[Any]:
        return [*arguments[:2], "--output", output, *arguments[2:]]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = run(tmp_path, "generate_proposals.py", *words(whole))
    assert done.returncode == 0, done.stderr[-2000:]
    process = subprocess.Popen(
        command("generate_proposals.py", *words(killed)),
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = tmp_path / "killed.parts" / "part-000000"
    deadline = time.monotonic() + 300
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.exists() and not killed.exists(), "the kill came too late or nothing was written"
    stamp = first.stat().st_mtime_ns
    assert not (tmp_path / "killed.parts" / "part-000001").exists()
    again = run(tmp_path, "generate_proposals.py", *words(killed))
    assert again.returncode == 0, again.stderr[-2000:]
    assert stamp and list_outputs(whole) == list_outputs(killed)
    assert len(ProposalStore.open(killed)) == 70
    assert not (tmp_path / "killed.parts").exists()


def test_the_single_tools_work_on_the_artifacts_of_a_run(
    finished: tuple[Path, Path, str],
) -> None:
    tmp_path, output, _ = finished
    config = REPO / "configs/pipelines/scenes_quick.yaml"
    name = "scenes_tiny_train_weak"
    recall = run(
        tmp_path,
        "evaluate_proposals.py",
        *("--config-file", config, "--input", output / "proposals" / name),
        *("--output", tmp_path / "recall.json", "--check"),
    )
    assert recall.returncode == 0, recall.stderr[-2000:]
    assert (tmp_path / "recall.json").exists()
    detections = output / "wsod/inference" / name / "detections.json"
    labels = run(
        tmp_path,
        "generate_pseudo_gt.py",
        *("--config-file", config, "--detections", detections, "--analyze"),
        *("--output", tmp_path / "top1", "WEAKSAM.PSEUDO_GT.RULE", "top1"),
    )
    assert labels.returncode == 0, labels.stderr[-2000:]
    assert "precision:" in labels.stdout
    evaluated = run(
        tmp_path,
        "train_net.py",
        *("--config-file", REPO / "configs/quick_schedules/oicr_lite0.yaml", "--eval-only"),
        *("MODEL.WEIGHTS", output / "wsod/model_final.pth", "MODEL.ROI_HEADS.NUM_CLASSES", "6"),
        *("DATASETS.TEST", "('scenes_tiny_val_weak',)", "OUTPUT_DIR", tmp_path / "eval"),
        "DATASETS.PROPOSAL_FILES_TEST",
        f"('{output / 'proposals/scenes_tiny_val_weak'}',)",
    )
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    stored = json.loads((output / "metrics.json").read_text())["wsod"]["AP50"]
    printed = json.loads((tmp_path / "eval/results.json").read_text())
    assert printed["scenes_tiny_val_weak/bbox/AP50"] == pytest.approx(stored, abs=0.01)
