"""The benchmarks' harness: equality first, then interleaved times."""

import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "_harness.py"


@pytest.fixture(scope="module")
def harness() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_harness", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def make(harness: Any, **changes: Any) -> Any:
    def check(ours: int, theirs: int) -> None:
        assert ours == theirs, "results differ"

    fields = {
        "stage": "stage",
        "against": "the slow way",
        "work": "one sum",
        "target": 2.0,
        "ours": lambda: 1,
        "theirs": lambda: time.sleep(0.005) or 1,
        "check": check,
        "repeats": 3,
    }
    return harness.Comparison(**{**fields, **changes})


def test_the_ratio_is_theirs_by_ours(harness: Any) -> None:
    row = harness.measure(make(harness))
    assert list(row) == [
        *("stage", "against", "ratio", "target", "met", "ours_s", "theirs_s", "work")
    ]
    assert row["ratio"] == row["theirs_s"] / row["ours_s"] > 2
    assert row["met"] is True
    assert harness.measure(make(harness, target=1e9))["met"] is False


def test_unequal_results_are_not_timed(harness: Any) -> None:
    calls: list[int] = []
    comparison = make(harness, ours=lambda: calls.append(1) or 2)
    with pytest.raises(AssertionError, match="results differ"):
        harness.measure(comparison)
    assert len(calls) == 1


def test_runs_are_interleaved_and_the_first_changes(harness: Any) -> None:
    order: list[str] = []
    comparison = make(
        harness, ours=lambda: order.append("o") or 1, theirs=lambda: order.append("t") or 1
    )
    harness.measure(comparison)
    assert "".join(order) == "ot" + "ot" + "to" + "ot"
    with pytest.raises(ValueError, match="repeats"):
        harness.measure(make(harness, repeats=0))


def test_rows_are_printed_and_written(
    harness: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [harness.measure(make(harness, target=1e9))]
    harness.report(rows, tmp_path / "new" / "rows.json")
    assert json.loads((tmp_path / "new" / "rows.json").read_text()) == rows
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == list(harness.COLUMNS)
    assert printed[1].endswith("NO")
