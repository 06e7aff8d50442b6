"""Started by torchrun from test_distributed.py: trains on both ranks and compares their weights.

Of the two images one has a tag and one has none, nor a proposal that is large enough, so that in
every step one rank has no positive label, no seed and no proposal of its own; in retraining one
rank has no box; with mixed supervision one rank has tags only and one boxes only.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from PIL import Image

from weaksam_d2.artifacts import ProposalStoreWriter, PseudoGroundTruth, write_pseudo_gt
from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.trainer import WeakSAMTrainer
from weaksam_d2.retrain import PercentileLimits

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "quick_schedules"


REGRESSION = ["MODEL.WSOD.REGRESSION", "class_specific"]
OPTIONS: dict[str, list[Any]] = {
    "pcl": ["MODEL.WSOD.REFINEMENT_LOSS", "PCL"],
    "mist": [
        *("MODEL.WSOD.SEED_MINER", "MIST", "MODEL.WSOD.DROPBLOCK.METHOD", "concrete"),
        *REGRESSION,
    ],
    "teacher": [
        *("WEAKSAM.EMA_TEACHER.DECAY", 0.9, "WEAKSAM.EMA_TEACHER.LOSS_WEIGHT", 0.5),
        *("WEAKSAM.EMA_TEACHER.SCORE_THRESH", 0.0, "SOLVER.EXACT_RESUME", True),
        *("SOLVER.CHECKPOINT_PERIOD", 1),
    ],
    "percentile": ["MODEL.ROI_DROP.THRESHOLD", "percentile", "SOLVER.CHECKPOINT_PERIOD", 1],
    "mixed": [
        *("DATASETS.BOXES_TRAIN", ("boxes",), "DATALOADER.BOXES_FRACTION", 0.5),
        *("SOLVER.EXACT_RESUME", True, "SOLVER.CHECKPOINT_PERIOD", 1),
        *REGRESSION,
    ],
}
TASKS = ("wsod", "pcl", "mist", "retrain", "percentile", "teacher", "mixed")
RETRAINED = ("retrain", "percentile", "teacher")


def write_data(folder: Path) -> None:
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with ProposalStoreWriter(folder / "proposals") as writer:
        for name in ("a.png", "b.png"):
            pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name)
            corners = rng.integers(0, 60, (12, 2))
            side = 30 if name == "a.png" else 10  # below MODEL.WSOD.MIN_SIDE
            boxes = np.concatenate([corners, corners + side], 1).astype(np.float32)
            writer.add(name[:1], boxes, image_size=(96, 128))
    (folder / "tags.csv").write_text("a.png,duck\nb.png,\n")
    listed = [{"id": n, "file_name": f"{n}.png", "height": 96, "width": 128} for n in ("a", "b")]
    info = {"weaksam": {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}}
    rows: list[dict[str, Any]] = [{"image_id": "a", "category_id": 1, "bbox": [20, 20, 60, 50]}]
    classes = [{"id": 1, "name": "duck"}, {"id": 2, "name": "swan"}]
    write_pseudo_gt(folder / "labels.json", PseudoGroundTruth(listed, rows, classes, info))


def register(folder: Path) -> None:
    register_tagged_folder(
        "weak", image_root=folder / "photos", tags=folder / "tags.csv", classes=("duck", "swan")
    )
    box = {"bbox": [20, 20, 80, 70], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    records = [
        {
            "file_name": str(folder / "photos" / f"{name}.png"),
            "image_id": name,
            "height": 96,
            "width": 128,
            "annotations": [dict(box)] if name == "a" else [],
        }
        for name in "ab"
    ]
    DatasetCatalog.register("boxes", lambda: records)
    MetadataCatalog.get("boxes").set(thing_classes=["duck", "swan"])


def config(task: str, folder: Path) -> Any:
    cfg = cli.base_config()
    name = "faster_rcnn_lite0_roi_drop" if task in RETRAINED else "oicr_lite0"
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "test_efficientnet", (2, 3)
    cfg.merge_from_list(OPTIONS.get(task, []))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", "", 2
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("boxes" if task in RETRAINED else "weak",), ()
    if task == "teacher":  # asks for tags
        cfg.DATASETS.TRAIN = ("weak",)
        cfg.DATASETS.PSEUDO_GT_TRAIN = (str(folder / "labels.json"),)
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(folder / "proposals"),)
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.ACCUMULATION_STEPS = 2, (), 2
    cfg.MODEL.ROI_DROP.START_ITER, cfg.INPUT.RANDOM_FLIP = 1, "none"
    cfg.OUTPUT_DIR = str(folder / task)
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    return cfg


def train(task: str, folder: Path) -> dict[str, Any]:
    trainer = WeakSAMTrainer(config(task, folder))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    weights = {name: p.detach() for name, p in trainer.model.named_parameters()}
    moved = [name for name, p in weights.items() if not p.equal(before[name])]
    limits = [m.running for m in trainer.model.modules() if isinstance(m, PercentileLimits)]
    teacher = 0.0
    if trainer.teacher is not None:
        teacher = sum(p.double().sum().item() for p in trainer.teacher.model.parameters())
    sums = comm.all_gather({name: p.double().sum().item() for name, p in weights.items()})
    return {
        "wrapped": type(trainer.model).__name__,
        "moved": len(moved),
        "equal": sums[0] == sums[1],
        "teacher": teacher,
        "iterations": trainer.iter,
        "limits": [row.nan_to_num(-1).tolist() for row in limits],
        "sums": sums[0],
    }


def resumes_exactly(task: str, folder: Path, straight: dict[str, float]) -> bool:
    """Whether both ranks arrive at the same weights from the first checkpoint, other seeds."""
    cfg = config(task, folder)
    if comm.is_main_process():
        (Path(cfg.OUTPUT_DIR) / "last_checkpoint").write_text("model_0000000.pth")
    comm.synchronize()
    seed_all_rng(1000 + comm.get_rank())
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 1
    trainer.train()
    return straight == {
        n: p.detach().double().sum().item() for n, p in trainer.model.named_parameters()
    }


def main(args: argparse.Namespace) -> None:
    if comm.is_main_process():
        write_data(args.folder)
    comm.synchronize()
    register(args.folder)
    found = {task: train(task, args.folder) for task in TASKS}
    sums = {task: row.pop("sums") for task, row in found.items()}
    for task in ("mixed", "teacher"):
        found[task]["exact"] = resumes_exactly(task, args.folder, sums[task])
    (args.folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    cli.run_distributed(main, parser.parse_args())
