"""The whole road: pseudo boxes of drawn scenes, the trainer, detections, and resuming."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from weaksam_d2.projects.dino import add_dino_config

from weaksam_d2.artifacts import PseudoGroundTruth, write_pseudo_gt
from weaksam_d2.data import register_scenes
from weaksam_d2.data.datasets.scenes import SceneSet
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.training.trainer import WeakSAMTrainer

pytest.importorskip("transformers")

QUICK = Path(__file__).resolve().parents[3] / "projects/DINO/configs/quick_schedules"
SCENES = SceneSet("dino", train=4, val=2, scale=(0.4, 0.7))
TRAIN, VAL = "dino_scenes_train_weak", "dino_scenes_val_weak"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pseudo ground truth of ``TRAIN``, which is true here."""
    known, root = set(DatasetCatalog.list()), tmp_path_factory.mktemp("dino")
    for name in (TRAIN, VAL):
        split = name.split("_")[2]
        register_scenes(name.removesuffix("_weak"), root=root, split=split, scenes=SCENES)
    yield write_truth(root / "pseudo_gt.json")
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_truth(path: Path) -> Path:
    images, annotations = [], []
    for record in DatasetCatalog.get(MetadataCatalog.get(TRAIN).evaluation_name):
        size = {"height": record["height"], "width": record["width"]}
        file_name = Path(record["file_name"]).name
        images.append({"id": record["image_id"], "file_name": file_name, **size})
        for one in record["annotations"]:
            x1, y1, x2, y2 = one["bbox"]
            row = {"image_id": record["image_id"], "category_id": one["category_id"] + 1}
            annotations.append({**row, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    names = MetadataCatalog.get(TRAIN).thing_classes
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    info = {"weaksam": {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}}
    write_pseudo_gt(path, PseudoGroundTruth(images, annotations, categories, info))
    return path


def config(truth: Path, output: Path, **changes: Any) -> Any:
    cfg = base_config()
    if "DINO" not in cfg.MODEL:
        add_dino_config(cfg)
    cfg.merge_from_file(str(QUICK / "dino_lite0.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = "cpu", "test_efficientnet", ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (96,), 96
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), ()
    cfg.DATASETS.PSEUDO_GT_TRAIN = (str(truth),)
    cfg.OUTPUT_DIR = str(output)
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    output.mkdir(exist_ok=True)
    return cfg


def trained(cfg: Any, resume: bool = False) -> WeakSAMTrainer:
    seed_all_rng(cfg.SEED)
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def test_steps_on_pseudo_boxes_lower_the_loss_and_detections_are_evaluated(
    scenes: Path, tmp_path: Path
) -> None:
    cfg = config(scenes, tmp_path / "out", SOLVER__MAX_ITER=30, SOLVER__STEPS=(25,))
    cfg.SOLVER.BASE_LR, cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.RANDOM_FLIP = 0.002, 4, "none"
    assert cfg.MODEL.QUERY_DROP.ENABLED
    trainer = trained(cfg)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    first, last = sum(losses[:5]), sum(losses[-5:])
    assert last < 0.7 * first, losses
    assert trainer.storage.latest()["query_drop/active"][0] == 1.0
    cfg.DATASETS.TEST = (VAL,)
    (found,) = WeakSAMTrainer.test(cfg, trainer.model).values()
    assert 0 <= found["bbox"]["AP50"] <= 100


def test_a_resumed_run_is_an_uninterrupted_one(scenes: Path, tmp_path: Path) -> None:
    """Cropped views and the noise of denoising queries, too."""
    exact = {"SOLVER__EXACT_RESUME": True, "INPUT__DETR_CROP": True, "SOLVER__STEPS": ()}
    whole = trained(config(scenes, tmp_path / "whole", SOLVER__MAX_ITER=4, **exact))
    parts = tmp_path / "parts"
    trained(config(scenes, parts, SOLVER__MAX_ITER=2, **exact))
    torch.rand(3)  # a process that goes on starts from another state
    resumed = trained(config(scenes, parts, SOLVER__MAX_ITER=4, **exact), resume=True)
    assert resumed.start_iter == 2
    for name, value in whole.model.state_dict().items():
        assert value.equal(resumed.model.state_dict()[name]), name
