"""S2C through the trainer: configs, resuming, and that no true box or mask is ever seen."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.utils.env import seed_all_rng

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.data import register_coco_weak
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.trainer import WeakSAMTrainer
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.projects import add_all_configs

FOLDER = "projects/S2C/configs"
KEYS = (
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.WEIGHTS", "", "MODEL.DEVICE", "cpu"),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.S2C.FEATURE_DIM", 16, "MODEL.S2C.TAU", 0.0),
    *("WEAKSAM.SAM.BACKEND", "FakeSam", "DATASETS.TRAIN", ("s2c_tiny",), "SOLVER.BASE_LR", 0.01),
    *("INPUT.S2C.CROP_SIZE", 48, "INPUT.S2C.LONGEST_SIDE", (48, 64)),
)


def config_of(name: str, *changes: Any) -> Any:
    cfg = cli.base_config(add_all_configs)
    cfg.merge_from_file(get_config_file(f"{FOLDER}/{name}"))
    cfg.merge_from_list(list(changes))
    return cfg


def quick(photos: Path, output: Path, *changes: Any) -> Any:
    store = ("MODEL.S2C.MASKS", str(photos / "masks"), "OUTPUT_DIR", str(output))
    return config_of("quick_schedules/s2c_lite0.yaml", *KEYS, *store, *changes)


def train(cfg: Any, resume: bool = False) -> WeakSAMTrainer:
    seed_all_rng(1)
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def weights_of(trainer: WeakSAMTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def logged(output: Path) -> dict[str, list[float]]:
    rows = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    return {key: [row[key] for row in rows if key in row] for key in rows[-1]}


def test_two_steps_of_the_quick_config_teach_every_part(photos: Path, tmp_path: Path) -> None:
    cfg = quick(photos, tmp_path / "out", "SOLVER.MAX_ITER", 2, "MODEL.S2C.EPOCH_ITERS", 1)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = 4, 1e-4
    before = weights_of(WeakSAMTrainer(cfg))
    trainer = train(cfg)
    after = weights_of(trainer)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert not after["network.fc9.weight"].equal(before["network.fc9.weight"])
    assert not after["network.fc8.weight"].equal(before["network.fc8.weight"])
    saved = torch.load(tmp_path / "out" / "model_final.pth", weights_only=False)["model"]
    assert set(saved) == set(after) and not any("sam" in name for name in saved)
    shown = logged(tmp_path / "out")
    assert {"loss_cls", "loss_ssc", "loss_cpm"} <= set(shown)
    assert shown["loss_ssc"][-1] > 0 and shown["loss_cpm"][-1] > 0


def test_a_resumed_run_equals_an_uninterrupted_one(photos: Path, tmp_path: Path) -> None:
    exact = ("SOLVER.EXACT_RESUME", True, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.MAX_ITER", 4)
    exact += ("DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.IMS_PER_BATCH", 2)
    whole = weights_of(train(quick(photos, tmp_path / "whole", *exact)))

    class Killed(RuntimeError):
        pass

    cfg = quick(photos, tmp_path / "parts", *exact)
    seed_all_rng(1)
    first = WeakSAMTrainer(cfg)
    first.resume_or_load(resume=False)
    step = first.run_step

    def until_three() -> None:
        if first.iter == 3:
            raise Killed
        step()

    first.run_step = until_three
    with pytest.raises(Killed):
        first.train()
    again = weights_of(train(cfg, resume=True))
    assert all(again[name].equal(value) for name, value in whole.items())


def test_a_worker_of_its_own_opens_the_store(photos: Path, tmp_path: Path) -> None:
    cfg = quick(photos, tmp_path / "out", "SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", 1)
    assert train(cfg).iter == 1


def write_annotated(folder: Path, seed: int) -> None:
    """A COCO file of the images whose tags are fixed and whose boxes and masks are random."""
    draw = random.Random(seed)
    annotations = []
    for number in range(4):
        x, y = draw.randint(0, 20), draw.randint(0, 15)
        row = {"id": number + 1, "image_id": number, "category_id": number % 3 + 1, "iscrowd": 0}
        polygon = [[x, y, x + 20, y, x + 20, y + 20]]
        annotations.append({**row, "bbox": [x, y, 20, 20], "area": 200, "segmentation": polygon})
    images = [
        {"id": number, "file_name": f"{name}.png", "height": 48, "width": 64}
        for number, name in enumerate("abcd")
    ]
    categories = [{"id": number + 1, "name": f"c{number}"} for number in range(3)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))


def test_training_does_not_depend_on_true_boxes_or_masks(photos: Path, tmp_path: Path) -> None:
    store = ProposalStore.open(photos / "masks")
    with ProposalStoreWriter(tmp_path / "by_number") as writer:
        for number, name in enumerate("abcd"):
            found = store[name]
            fields = {"scores": found.scores, "masks": found.masks}
            writer.add(str(number), found.boxes, **fields, image_size=found.image_size)
    weights = []
    for seed in (0, 1):
        write_annotated(tmp_path, seed)
        name = f"s2c_shuffled_{seed}"
        register_coco_weak(
            name, json_file=tmp_path / "instances.json", image_root=photos / "photos"
        )
        changes = ("DATASETS.TRAIN", (name,), "MODEL.S2C.MASKS", str(tmp_path / "by_number"))
        cfg = quick(photos, tmp_path / f"run{seed}", *changes, "SOLVER.MAX_ITER", 3)
        weights.append(weights_of(train(cfg)))
    assert all(weights[1][name].equal(value) for name, value in weights[0].items())


def test_the_published_recipe() -> None:
    cfg = config_of("s2c_wrn38_voc12.yaml")
    solver, node, views = cfg.SOLVER, cfg.MODEL.S2C, cfg.INPUT.S2C
    assert round(6 * 10582 / 8 + 0.01) == solver.MAX_ITER and solver.IMS_PER_BATCH == 8
    assert (solver.OPTIMIZER, solver.BASE_LR) == ("SGD", 0.02)
    assert (solver.MOMENTUM, solver.WEIGHT_DECAY) == (0.0, 5e-4)
    assert (solver.LR_SCHEDULER_NAME, solver.POLY_LR_POWER) == ("WarmupPolyLR", 0.9)
    assert (views.CROP_SIZE, tuple(views.LONGEST_SIDE)) == (256, (256, 512))
    assert (views.JITTER_PROB, views.GRAY_PROB) == (0.8, 0.02)
    assert tuple(views.COLOR_JITTER) == (0.4, 0.4, 0.4, 0.1)
    assert (node.FEATURE_DIM, node.SSC_SCALE, node.TAU, node.PEAK_RADIUS) == (256, 2.0, 0.5, 20)
    assert (node.CPM_START_EPOCH, node.SAM_MASK_INDEX, node.SAM_EVERY) == (1, 2, 1)
    assert tuple(node.CPM_SCALES) == tuple(cfg.WEAKSAM.CAMS.SCALES) == (0.5, 1.0, 1.5, 2.0)
    assert tuple(node.LOSS_WEIGHTS) == (1.0, 1.0, 1.0) and cfg.WEAKSAM.SAM.ARCH == "vit_h"
    assert cfg.WEAKSAM.LABELS.BACKGROUND == "constant:0.3" and cfg.WEAKSAM.CAMS.FLIP
    coco = config_of("s2c_wrn38_coco14.yaml")
    for one in (cfg, coco):
        assert {*one.DATASETS.TRAIN, *one.DATASETS.TEST} <= set(DatasetCatalog.list())
    assert round(3 * 82783 / 8) == coco.SOLVER.MAX_ITER and coco.MODEL.ROI_HEADS.NUM_CLASSES == 80


def test_the_reference_changes_what_the_released_code_does_otherwise(tmp_path: Path) -> None:
    names = ("s2c_wrn38_voc12", "reference/s2c_release")
    paths = [get_config_file(f"{FOLDER}/{name}.yaml") for name in names]
    (tmp_path / "both.yaml").write_text(f"_BASE_: {paths}\n")
    cfg = cli.base_config(add_all_configs)
    cfg.merge_from_file(str(tmp_path / "both.yaml"))
    node = cfg.MODEL.S2C
    assert (node.SE_PRIORITY, node.SSC_SCALE, node.SSC_ABSENT_LOGITS) == ("iou", 1.0, True)
    assert (node.CPM_START_EPOCH, node.PEAK_RULE, node.CPM_BACKGROUND_TAU) == (2, "skimage", False)
    assert cfg.SOLVER.MOMENTUM == 5e-4 and cfg.SOLVER.MAX_ITER == 40 * 10582 // 8
    assert cfg.SOLVER.WEIGHT_DECAY == 5e-4 and cfg.MODEL.S2C.TAU == 0.5
