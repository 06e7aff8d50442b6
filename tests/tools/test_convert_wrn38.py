"""tools/convert_wrn38.py, with a stand-in for mxnet."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

TOOL = Path(__file__).resolve().parents[2] / "tools" / "convert_wrn38.py"


@pytest.fixture
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("convert_wrn38", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(tmp_path: Path) -> SimpleNamespace:
    (tmp_path / "a1.params").write_bytes(b"")
    return SimpleNamespace(input=tmp_path / "a1.params", output=tmp_path / "out" / "wrn38.pth")


def test_it_says_that_mxnet_is_missing(tool: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "mxnet", None)
    given = arguments(tmp_path)
    with pytest.raises(ValueError, match="pip install mxnet"):
        tool.main(given)
    given.input.unlink()
    with pytest.raises(FileNotFoundError, match="a1.params"):
        tool.main(given)


def test_it_writes_our_names(tool: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    array = SimpleNamespace(asnumpy=lambda: np.ones((2, 3), dtype=np.float32))
    stored = {"arg:conv1a_weight": array, "aux:bn7_moving_var": array, "arg:linear1000_bias": array}
    fake = SimpleNamespace(nd=SimpleNamespace(load=lambda path: stored))
    monkeypatch.setitem(sys.modules, "mxnet", fake)
    given = arguments(tmp_path)
    tool.main(given)
    state = torch.load(given.output, weights_only=True)
    assert set(state) == {"conv1a.weight", "bn7.running_var"}
    assert torch.equal(state["conv1a.weight"], torch.ones(2, 3))
    assert "MODEL.WRN38.WEIGHTS" in capsys.readouterr().out
