"""The tool, run by its path in this process, and labels from what it wrote."""

import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import CamStore, PromptSet, RunManifest, SemSegLabels

TOOLS = Path(__file__).resolve().parents[2] / "tools"
Run = Callable[..., int]
NAME = "convert_cams_weak"
SIZE = (24, 36)


@pytest.fixture()
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    # Its handlers would outlive the test and keep messages from others.
    monkeypatch.setattr("weaksam_d2.engine.cli.start_logging", lambda output: None)

    def call(tool: str, *words: Any) -> int:
        monkeypatch.setattr(sys, "argv", [str(TOOLS / tool), *map(str, words)])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(TOOLS / tool), run_name="__main__")
        return int(left.value.code or 0)

    return call


@pytest.fixture()
def photographs(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Arguments that name a data set of three tagged images."""
    (tmp_path / "images").mkdir()
    for name in "abc":
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"images/{name}.png")
    (tmp_path / "tags.csv").write_text("file_name,tags\na.png,cat;dog\nb.png,dog\nc.png,cat\n")
    entry = (NAME, str(tmp_path / "images"), str(tmp_path / "tags.csv"))
    yield "DATASETS.TAGGED", str((entry,)), "DATASETS.TRAIN", str((NAME,))
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


def write_clip_es(folder: Path) -> dict[str, Any]:
    """Files as CLIP-ES writes them: keys in the order of the objects, half precision."""
    rng = np.random.default_rng(0)
    files = {
        name: {"keys": np.array(keys), "attn_highres": rng.random((len(keys), *SIZE), np.float32)}
        for name, keys in (("a", [1, 0]), ("b", [1]), ("c", []))
    }
    folder.mkdir()
    for name, content in files.items():
        content["attn_highres"] = content["attn_highres"].astype(np.float16)
        np.save(folder / f"{name}.npy", content)  # type: ignore[arg-type]
    return files


def official_label(content: dict[str, Any], alpha: float) -> np.ndarray:
    """Labels as CLIP-ES's evaluation makes them from a file, pixel by pixel."""
    label = np.zeros(SIZE, np.uint8)
    maps = content["attn_highres"].astype(np.float32)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            best = max([(m[y, x], int(key)) for m, key in zip(maps, content["keys"], strict=True)],
                       default=(0, 0))  # fmt: skip
            if best[0] > (1 - best[0]) ** alpha:
                label[y, x] = best[1] + 1
    return label


def test_official_maps_become_labels_and_prompts(
    tmp_path: Path, run: Run, photographs: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_clip_es(tmp_path / "maps")
    common = ("--from", "clip_es", "--dataset", NAME, "--input", tmp_path / "maps")
    assert run("convert_cams.py", *common, "--output", tmp_path / "cams", *photographs) == 0
    assert "'images': 3, 'maps': 3" in capsys.readouterr().out
    manifest = RunManifest.read(tmp_path / "cams")
    assert manifest.counts["untold_images"] == 1  # c has a tag, and no map
    assert str(tmp_path) not in (tmp_path / "cams/manifest.json").read_text()
    assert CamStore.open(tmp_path / "cams")["a"].classes.tolist() == [0, 1]
    (tmp_path / "labels.yaml").write_text(
        "WEAKSAM: {LABELS: {BACKGROUND: 'power:2'}, PROMPTS: {SOURCES: [CoarseCAMPeaks]}}\n"
    )
    cams = ("--config-file", tmp_path / "labels.yaml", "--input", tmp_path / "cams")
    assert run("generate_labels.py", *cams, "--output", tmp_path / "labels", *photographs) == 0
    labels = SemSegLabels.open(tmp_path / "labels")
    for name, content in files.items():
        assert np.array_equal(labels[name], official_label(content, 2)), name
    assert {1, 2} <= set(np.unique(labels["a"])) and not labels["c"].any()
    assert run("generate_prompts.py", *cams, "--output", tmp_path / "prompts", *photographs) == 0
    assert len(PromptSet.open(tmp_path / "prompts")["b"].scores) > 0


def test_wrong_usage_is_2_and_a_bad_file_1_with_its_reason(
    tmp_path: Path, run: Run, photographs: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip_es(tmp_path / "maps")
    common = ("--dataset", NAME, "--output", tmp_path / "out", "--input")
    assert run("convert_cams.py", *common, tmp_path / "none", "--from", "irn") == 2
    assert run("convert_cams.py", *common, tmp_path / "maps", "--from", "psa") == 2
    folder = (*common, tmp_path / "maps", "--from")
    assert run("convert_cams.py", *folder, "clip_es", "--stride", "0") == 2
    assert run("convert_cams.py", *folder, "class_maps", *photographs) == 1
    assert "it looks like layout 'clip_es' (--from)" in capsys.readouterr().err
    (tmp_path / "maps/a.npy").unlink()
    assert run("convert_cams.py", *folder, "clip_es", "--overwrite", *photographs) == 1
    assert "has no file for 1 images, for example ['a']" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
