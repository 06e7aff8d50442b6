"""The tool, run by its path in this process (an own process costs seconds to start)."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from torchvision.models import vgg16

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_vgg16.py"


@pytest.fixture()
def published(tmp_path: Path) -> Path:
    """torchvision's names with weights of unknown pixels, in the memory of one number each."""
    with torch.device("meta"):
        wanted = vgg16(init_weights=False).state_dict()
    state = {name: torch.zeros(1).expand(value.shape) for name, value in wanted.items()}
    torch.save(state, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def run(monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, words)])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(TOOL), run_name="__main__")
    return int(left.value.code or 0)


def test_a_file_is_converted_and_its_config_is_printed(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out.pth"
    common = ("--input", published, "--output", output)
    assert run(monkeypatch, *common) == 1
    assert "say which with --pixels" in capsys.readouterr().err and not output.exists()
    assert run(monkeypatch, *common, "--pixels", "torchvision") == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "printed.yaml"))
    assert (str(output), "RGB") == (cfg.MODEL.WEIGHTS, cfg.INPUT.FORMAT)
    assert len(torch.load(output, weights_only=True)["model"]) == 30
    assert run(monkeypatch, *common, "--pixels", "caffe") == 2
    assert run(monkeypatch, *common, "--pixels", "caffe", "--overwrite") == 0
    about = torch.load(output, weights_only=True)["vgg16"]
    assert (about["pixels"], about["format"]) == ("caffe", "BGR")


def test_a_name_that_the_checkpointer_cannot_read_is_a_usage_error(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--input", published, "--output", tmp_path / "out.npz", "--pixels", "caffe")
    assert run(monkeypatch, *words) == 2
