"""Curves from metrics.json: resumed, cut off, several runs, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.engine.analysis.learning_curves import learning_curves, read_curves

REPO = Path(__file__).resolve().parents[3]


def write_metrics(path: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_a_resumed_run_is_one_curve_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    rows = [
        {"iteration": 19, "total_loss": 3.0},
        {"iteration": 39, "total_loss": 9.0, "val/bbox/AP50": 1.0},
        {"iteration": 39, "total_loss": 2.0},
        {"iteration": 59, "total_loss": 1.5, "note": "text"},
    ]
    path = write_metrics(tmp_path / "metrics.json", rows, tail='{"iteration": 79, "tot')
    assert read_curves(path) == {
        "total_loss": ([19, 39, 59], [3.0, 2.0, 1.5]),
        "val/bbox/AP50": ([39], [1.0]),
    }
    broken = write_metrics(tmp_path / "b.json", rows[:1], tail="{\n" + json.dumps(rows[1]) + "\n")
    with pytest.raises(ValueError, match=r"b\.json, line 2, is no JSON"):
        read_curves(broken)


def test_a_panel_has_a_line_for_each_run_that_has_the_figure(tmp_path: Path) -> None:
    one = write_metrics(tmp_path / "a/metrics.json", [{"iteration": 1, "total_loss": 2.0, "x": 1}])
    two = write_metrics(tmp_path / "b/metrics.json", [{"iteration": 1, "total_loss": 4.0}])
    losses, x = learning_curves({"a": one, "b": two}, ["total_loss", "x"])
    assert [line.name for line in losses.series] == ["a", "b"]
    assert [line.name for line in x.series] == ["a"] and x.y_label == "x"
    with pytest.raises(
        ValueError, match=r"no run has the figure 'total_los'; there are total_loss"
    ):
        learning_curves({"a": one}, ["total_los"])


def test_the_tool_draws_losses_and_ap50_of_folders(tmp_path: Path) -> None:
    rows = [{"iteration": i, "total_loss": 1 / i, "val/bbox/AP50": i} for i in (1, 2)]
    write_metrics(tmp_path / "run/metrics.json", rows)
    command = [sys.executable, str(REPO / "tools/plot_curves.py"), "--runs"]
    command += [f"mine={tmp_path / 'run'}", "--output", str(tmp_path / "curves.svg")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "total_loss, val/bbox/AP50 of mine" in done.stdout
    assert (tmp_path / "curves.svg").read_text().lstrip().startswith("<?xml")
