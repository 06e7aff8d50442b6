"""A published classifier in a pipeline: nothing to train, its weights are the result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import CamStore, RunManifest, sha256_file
from weaksam_d2.cams import WeakTr
from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.stages.image_stages import Placement, cams_stage
from weaksam_d2.engine.stages.training_stage import TrainingJob, train_and_detect
from weaksam_d2.engine.training.trainer import WeakSAMTrainer

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def birds(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (tmp_path / "tags.csv").write_text("a.png,duck\nb.png,swan\nc.png,duck;swan\n")
    register_tagged_folder("wt_birds", image_root=folder, tags=tmp_path / "tags.csv")
    yield "wt_birds"
    DatasetCatalog.remove("wt_birds")
    MetadataCatalog.remove("wt_birds")


@pytest.fixture
def cfg(birds: str, tmp_path: Path) -> Any:
    cfg = base_config()
    cfg.merge_from_file(str(REPO / "configs/quick_schedules/weaktr_tiny.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (birds,), ()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.WEAKSAM.CAMS.SCALES = (1.0,)
    return cfg


@pytest.fixture
def published(cfg: Any, tmp_path: Path) -> Path:
    """Weights in the published form, of a tiny network."""
    state = WeakTr(cfg).state_dict()
    path = tmp_path / "published.pth"
    torch.save({"model": {k.removeprefix("vit."): v for k, v in state.items()}, "epoch": 1}, path)
    return path


def test_the_quick_schedule_trains_and_its_checkpoint_gives_maps(
    cfg: Any, birds: str, tmp_path: Path
) -> None:
    cfg.SOLVER.MAX_ITER = 2
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    checkpoint = tmp_path / "out" / "model_final.pth"
    manifest = cams_stage(cfg, birds, checkpoint, Placement(tmp_path / "cams"))
    assert manifest is not None and manifest.counts["maps"] == 4
    maps = CamStore.open(tmp_path / "cams")["c"]
    assert maps.cross is not None and maps.cross[0].shape == (2, 2, 4, 3, 4)


def test_published_weights_give_maps_without_a_training(
    cfg: Any, birds: str, published: Path, tmp_path: Path
) -> None:
    cfg.MODEL.CLASSIFIER.POS_INTERP = "scale"
    with pytest.raises(ValueError, match="there is no classifier"):
        cams_stage(cfg, birds, None, Placement(tmp_path / "cams"))
    cfg.MODEL.CLASSIFIER.WEIGHTS = str(published)
    manifest = cams_stage(cfg, birds, None, Placement(tmp_path / "cams"))
    assert manifest is not None
    assert [(row["name"], row["sha256"]) for row in manifest.inputs] == [
        ("classifier", sha256_file(published))
    ]
    # As the classifier stage of a pipeline: no iteration, the same maps.
    cfg.SOLVER.MAX_ITER = 0
    (tmp_path / "classifier").mkdir()
    train_and_detect(TrainingJob(cfg), tmp_path / "classifier", False)
    checkpoint = tmp_path / "classifier" / "model_final.pth"
    cfg.MODEL.CLASSIFIER.WEIGHTS = ""
    cams_stage(cfg, birds, checkpoint, Placement(tmp_path / "again"))
    for name in ("coarse.npy", "fine.npy", "cross.npy", "classes.npy"):
        assert (tmp_path / "cams" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert RunManifest.read(tmp_path / "again" / "manifest.json").identity() != manifest.identity()


def test_a_move_of_the_published_file_changes_nothing(
    cfg: Any, birds: str, published: Path, tmp_path: Path
) -> None:
    cfg.MODEL.CLASSIFIER.POS_INTERP = "scale"
    cfg.MODEL.CLASSIFIER.WEIGHTS = str(published)
    first = cams_stage(cfg, birds, None, Placement(tmp_path / "cams"))
    cfg.MODEL.CLASSIFIER.WEIGHTS = str(published.rename(tmp_path / "elsewhere.pth"))
    second = cams_stage(cfg, birds, None, Placement(tmp_path / "cams"))
    assert first is not None and second is not None and first.identity() == second.identity()


def test_no_iteration_without_trained_weights_is_refused(cfg: Any, tmp_path: Path) -> None:
    cfg.SOLVER.MAX_ITER = 0
    (tmp_path / "classifier").mkdir()
    with pytest.raises(ValueError, match="WeakTr is not trained"):
        train_and_detect(TrainingJob(cfg), tmp_path / "classifier", False)
    assert not list((tmp_path / "classifier").glob("*.pth"))
