"""The tool that says why labels got worse, run by path on a small data set."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from weaksam_d2.projects.sepl.failures import KINDS

from weaksam_d2.artifacts import SemSegLabels, SemSegLabelsWriter

REPO = Path(__file__).resolve().parents[3]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    path = REPO / "tools" / "analyze_labels.py"
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(path), run_name="__main__")
    return int(stopped.value.code or 0)


def test_falls_are_counted_listed_and_drawn(
    world: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, after = SemSegLabels.open(world.inputs["input"]), world.root / "after"
    made = {"system": "SEPL", "base": "paper", "supervision": "image_labels"}
    with SemSegLabelsWriter(after, space=world.space, **made) as writer:
        for image_id in seeds.image_ids:
            label = seeds[image_id]
            if image_id in ("img0", "img3"):  # cats; of img3 two rows are left, of img0 nothing
                rows = np.flatnonzero((label == 1).any(axis=1))
                label[rows[2 if image_id == "img3" else 0] :] = 0
            writer.add(image_id, label, tags=seeds.entry(image_id)["tags"])
    (world.root / "cfg.yaml").write_text(
        json.dumps({"VERSION": 2, "DATASETS": {"TRAIN": ["sepl_tiny"]}, "SEPL": {"START": "cam"}})
    )
    output = world.root / "falls"
    flags = ["--config-file", world.root / "cfg.yaml", "--before", world.inputs["input"]]
    flags += ["--after", after, "--masks", world.inputs["masks"], "--output", output]
    assert run(monkeypatch, *flags, "--worst", 2) == 0
    found = json.loads((output / "falls.json").read_text())
    assert found["images"] == 10 and found["worst"] == ["img0", "img3"]
    assert [(row["image_id"], row["class"], row["after"]) for row in found["falls"]][0] == (
        *("img0", "cat", 0.0),
    )
    assert (
        found["counts"]["all"]
        == found["counts"]["cat"]
        == {
            **dict.fromkeys(KINDS, 0),
            "other": 2,
        }
    )
    for name in ("1_img0.png", "2_img3.png"):
        width, height = Image.open(output / name).size
        assert width > 5 * 640 and 480 <= height <= 540
    assert "2 falls in 10 images" in capsys.readouterr().out
    assert run(monkeypatch, *flags) == 1  # what is there is not replaced
    assert "exists already" in capsys.readouterr().err
