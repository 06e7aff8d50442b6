"""The project's configs: labels of photographs' sets, and the tagger's training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.trainer import WeakSAMTrainer
from weaksam_d2.model_zoo import get_config_file, list_config_files
from weaksam_d2.projects import add_all_configs

CONFIGS = [name for name in list_config_files() if name.startswith("projects/BoxSAM/")]
TAGGER = "projects/BoxSAM/configs/clip_tagger_voc.yaml"


def load(name: str) -> Any:
    cfg = cli.base_config(add_all_configs)
    cfg.merge_from_file(get_config_file(name))
    return cfg


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != TAGGER])
def test_every_other_config_makes_labels_of_one_set(name: str) -> None:
    cfg = load(name)
    assert cfg.WEAKSAM.LABELS.SOURCE in LABEL_SOURCE_REGISTRY
    assert len(cfg.DATASETS.TRAIN) == 1
    assert (10 if "coco" in name else 5) == cfg.BOXSAM.TAGGER.TOP_N


def test_the_tagger_trains_by_the_recipe_of_the_paper(
    animals: str, clip_folder: Path, tmp_path: Path
) -> None:
    cfg = load(TAGGER)
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == (2e-5, 0.7)
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.INPUT.CLASSIFICATION.SIZE = 32
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (animals,), ()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.DATALOADER.NUM_WORKERS = 2, 2, 0
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR, cfg.SEED = "cpu", str(tmp_path), 1
    trainer = WeakSAMTrainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
            trainer.storage.step()
        assert trainer.storage.latest()["total_loss"][0] > 0
    still = []
    for (name, after), old in zip(trainer.model.named_parameters(), before, strict=True):
        assert bool(torch.isfinite(after).all()), name
        still += [name] if old.equal(after.detach()) else []
    # A softmax does not change with a bias of all keys.
    assert all(name.endswith("k_proj.bias") for name in still), still
