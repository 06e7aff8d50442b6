"""The one trainer: accumulation, resuming, refusals; and what the command line shares."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from PIL import Image

from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.optimizer import build_optimizer, lr_factor
from weaksam_d2.engine.training.trainer import WeakSAMTrainer, check_finite, flat_results


@pytest.fixture
def birds(tmp_path: Path) -> Any:
    """A user's folder, registered in one line."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(
            folder / f"{name}.png"
        )
    (tmp_path / "tags.csv").write_text("a.png,duck\nb.png,swan\nc.png,duck;swan\nd.png,\n")
    register_tagged_folder("birds", image_root=folder, tags=tmp_path / "tags.csv")
    yield "birds"
    DatasetCatalog.remove("birds")
    MetadataCatalog.remove("birds")


def config(name: str, output: Path) -> Any:
    cfg = cli.base_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "test_efficientnet", (2, 3)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (name,), ()
    cfg.INPUT.MAPPER_NAME, cfg.INPUT.MIN_SIZE_TRAIN = "ImageLabelMapper", (64,)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 2
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 0.01, 4, 0
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SEED = 2, 3
    cfg.OUTPUT_DIR = str(output)
    output.mkdir(exist_ok=True)
    return cfg


def trained(cfg: Any, resume: bool = False) -> WeakSAMTrainer:
    seed_all_rng(3)
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def test_training_writes_curves_and_a_checkpoint(birds: str, tmp_path: Path) -> None:
    trained(config(birds, tmp_path / "out"))
    assert (tmp_path / "out/model_final.pth").exists()
    assert "total_loss" in (tmp_path / "out/metrics.json").read_text()


def test_a_stopped_training_goes_on_where_it_was(birds: str, tmp_path: Path) -> None:
    cfg = config(birds, tmp_path / "out")
    cfg.SOLVER.MAX_ITER = 2
    trained(cfg)
    cfg.SOLVER.MAX_ITER = 5
    trainer = trained(cfg, resume=True)
    assert trainer.start_iter == 2
    assert trainer.iter == 5
    assert trainer.optimizer.state_dict()["state"], "the momentum came from the checkpoint"


def test_accumulated_batches_are_one_larger_batch(birds: str, tmp_path: Path) -> None:
    """With plain SGD and without batch norm or chance, 2 x 2 images move weights like 4."""
    results = []
    for batch, steps in ((4, 1), (2, 2)):
        cfg = config(birds, tmp_path / f"out{batch}")
        cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATION_STEPS = batch, steps
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.MOMENTUM, cfg.INPUT.RANDOM_FLIP = 1, 0.0, "none"
        cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
        cfg.MODEL.TIMM.FREEZE_AT = 5
        seed_all_rng(3)
        trainer = WeakSAMTrainer(cfg)
        trainer.model.network.standardize.eval()
        trainer.model.network.standardize.train = lambda mode=True: None
        trainer.resume_or_load(False)
        trainer.train()
        results.append(trainer.model.network.classifier.weight.detach())
    assert torch.allclose(results[0], results[1], atol=1e-6)


def test_a_loss_that_is_not_finite_names_loss_and_image() -> None:
    batch = [{"image_id": "000005"}, {"image_id": "000007"}]
    with pytest.raises(FloatingPointError, match=r"iteration 9.*loss_mil.*000005, 000007"):
        check_finite({"loss_mil": torch.tensor(float("nan"))}, batch, 9)


def test_multipliers_select_parameters_by_name(birds: str, tmp_path: Path) -> None:
    assert lr_factor("roi_heads.refinement.0.weight", [("refinement", 10.0), ("0", 2.0)]) == 20.0
    cfg = config(birds, tmp_path / "out")
    cfg.SOLVER.LR_MULTIPLIERS = (("classifier", 0.1),)
    model = WeakSAMTrainer(cfg).model
    rates = {id(p): g["lr"] for g in build_optimizer(cfg, model).param_groups for p in g["params"]}
    assert rates[id(model.network.classifier.weight)] == pytest.approx(0.001)
    cfg.SOLVER.OPTIMIZER = "Lion"
    with pytest.raises(ValueError, match="'Lion', expected one of SGD, Adam, AdamW"):
        build_optimizer(cfg, model)


def test_half_precision_on_a_cpu_is_refused(birds: str, tmp_path: Path) -> None:
    cfg = config(birds, tmp_path / "out")
    cfg.SOLVER.AMP.ENABLED = True
    with pytest.raises(ValueError, match="float16 needs CUDA"):
        WeakSAMTrainer(cfg)


def test_results_are_flat_finite_numbers() -> None:
    nested = {"set": {"bbox": {"AP50": 41.5, "AP-cat": float("nan"), "note": "x"}}}
    assert flat_results(nested) == {"set/bbox/AP50": 41.5}


def test_a_user_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("tags.csv, line 3: no class is called 'duk'")

    with pytest.raises(SystemExit) as stop:
        cli.run_command(fail)
    assert stop.value.code == 1
    assert "line 3: no class is called 'duk'" in capsys.readouterr().err


def test_an_interrupt_prints_how_to_resume(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["tools/train_net.py", "--config-file", "a.yaml"])

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        cli.run_command(stop)
    assert left.value.code == 130
    assert "python tools/train_net.py --resume --config-file a.yaml" in capsys.readouterr().err
