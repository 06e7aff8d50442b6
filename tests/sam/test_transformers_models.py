"""Backends on transformers from a folder and a config, and what is said of a wrong folder."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.sam import SAM2, build_sam_backend, sam_weights
from weaksam_d2.sam.checkpoint import CheckpointMismatchError
from weaksam_d2.sam.transformers_models import TransformersSam
from weaksam_d2.weights import WeightsError


def make_cfg(folder: Path | str, backend: str = "SAM2", size: int = 64) -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.WEAKSAM.SAM.BACKEND = backend
    cfg.WEAKSAM.SAM.WEIGHTS = str(folder)
    cfg.WEAKSAM.SAM.INPUT_SIZE = size
    return cfg


@pytest.fixture(scope="module")
def folder(
    tiny: Callable[[str], tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("sam2")
    for part in tiny("SAM2"):
        part.save_pretrained(path)
    return path


@pytest.mark.parametrize("published", ["sam2", "sam2_video"])
def test_a_folder_gives_the_model_that_was_saved(
    folder: Path, tmp_path: Path, tiny: Any, image: np.ndarray, make: Any, published: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / published))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": published}))
    cfg = make_cfg(copy)
    assert sam_weights(cfg) == copy  # enters the manifest
    model, processor = tiny("SAM2")
    prompts = make([1, 2], image.shape[:2])
    chunks = []
    for backend in (build_sam_backend(cfg), SAM2(model=model, processor=processor)):
        assert isinstance(backend, TransformersSam)
        chunks += list(backend.decode(backend.encode(image), prompts, want=frozenset({"logits"})))
    assert torch.equal(chunks[0].boxes.nan_to_num(-1), chunks[1].boxes.nan_to_num(-1))
    torch.testing.assert_close(chunks[0].logits, chunks[1].logits)


def test_a_wrong_folder_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="WEIGHTS '' is no folder.*config.json"):
        build_sam_backend(make_cfg(""))
    with pytest.raises(WeightsError, match="is no folder"):
        build_sam_backend(make_cfg(tmp_path / "nothing"))
    with pytest.raises(WeightsError, match=r"config\.json: cannot be read"):
        build_sam_backend(make_cfg(tmp_path))
    with pytest.raises(CheckpointMismatchError, match=r"model_type is 'sam2', expected.*'sam_hq'"):
        build_sam_backend(make_cfg(folder, "SAMHQ"))
    with pytest.raises(ValueError, match=r"SAM\.INPUT_SIZE must be 64.*got 1024"):
        build_sam_backend(make_cfg(folder, size=1024))


def test_damaged_or_foreign_weights_are_named(folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="damaged: cannot be loaded as Sam2Model"):
        build_sam_backend(make_cfg(damaged))
    (damaged / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        build_sam_backend(make_cfg(damaged))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["mask_decoder_config"]["iou_head_hidden_dim"] = 48
    config["mask_decoder_config"]["iou_head_depth"] = 4
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="iou_prediction_head|cannot be loaded"):
        build_sam_backend(make_cfg(other))


def test_a_missing_package_says_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"Sam2Model of transformers >= 4\.56.*pip install"):
        build_sam_backend(make_cfg(folder))


def test_a_batch_of_no_prompts_is_refused(tiny: Any) -> None:
    model, processor = tiny("SAM2")
    with pytest.raises(ValueError, match="prompts_per_batch must be positive, got 0"):
        SAM2(model=model, processor=processor, prompts_per_batch=0)
