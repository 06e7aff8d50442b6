"""Started by torchrun from test_distributed.py: trains on both ranks and compares their weights.

Of the two images one has a tag and one has none, so that in every step one rank has no positive
label; in retraining one rank has no box.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.engine.trainer import WeakSAMTrainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "quick_schedules"


def write_data(folder: Path) -> None:
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with ProposalStoreWriter(folder / "proposals") as writer:
        for name in ("a.png", "b.png"):
            pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name)
            corners = rng.integers(0, 60, (12, 2))
            boxes = np.concatenate([corners, corners + 30], 1).astype(np.float32)
            writer.add(name[:1], boxes, image_size=(96, 128))
    (folder / "tags.csv").write_text("a.png,duck\nb.png,\n")


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
    name = {"wsod": "oicr_lite0", "retrain": "faster_rcnn_lite0_roi_drop"}[task]
    cfg.merge_from_file(str(CONFIGS / f"{name}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "cpu", "", 2
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("weak" if task == "wsod" else "boxes",), ()
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
    sums = comm.all_gather({name: p.double().sum().item() for name, p in weights.items()})
    return {
        "wrapped": type(trainer.model).__name__,
        "moved": len(moved),
        "equal": sums[0] == sums[1],
        "iterations": trainer.iter,
    }


def main(args: argparse.Namespace) -> None:
    if comm.is_main_process():
        write_data(args.folder)
    comm.synchronize()
    register(args.folder)
    found = {task: train(task, args.folder) for task in ("wsod", "retrain")}
    (args.folder / f"rank{comm.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    cli.run_distributed(main, parser.parse_args())
