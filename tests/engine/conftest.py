"""A whole pipeline in miniature, run once: two rounds, random networks, discs in place of SAM."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from weaksam_d2.engine.pipeline.base import PipelineSettings
from weaksam_d2.engine.pipeline.pipeline import Pipeline

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZE = (64, 80)  # height, width
NAMES = ("tp_train", "tp_test")
SMALL = [
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.OUT_INDICES", "(2, 3)"),
    *("MODEL.TIMM.WEIGHTS", "", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"),
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "96", "SEED", "3"),
]
WEAK = [*SMALL, "MODEL.WSOD.FC_DIM", "16"]
RETRAIN = [*SMALL, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]


@dataclass(frozen=True)
class TinyPipeline:
    """Its folder, the images, and how to run it once more."""

    root: Path
    photos: Path
    settings: PipelineSettings
    metrics: dict[str, Any]

    def image(self, name: str) -> np.ndarray:
        """An image, RGB."""
        return np.asarray(Image.open(self.photos / f"{name}.png"))


def register(folder: Path) -> None:
    """Two weak sets with annotated twins: images a to d, and e."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    box = {"bbox": [10, 10, 50, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    for name, images in zip(NAMES, ("abcd", "e"), strict=True):
        records = []
        for image_id in images:
            pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            path = folder / f"{image_id}.png"
            Image.fromarray(pixels).save(path)
            size = {"height": SIZE[0], "width": SIZE[1]}
            records.append({"file_name": str(path), "image_id": image_id, **size})
        weak = [{**r, "image_labels": [0, 1]} for r in records]
        full = [{**r, "annotations": [dict(box)]} for r in records]
        DatasetCatalog.register(f"{name}_weak", lambda weak=weak: weak)
        DatasetCatalog.register(f"{name}_eval", lambda full=full: full)
        for kind in ("weak", "eval"):
            MetadataCatalog.get(f"{name}_{kind}").set(
                thing_classes=["duck", "swan"],
                evaluator_type="voc",
                year=2007,
                evaluation_name=f"{name}_eval",
            )


@pytest.fixture(scope="package")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyPipeline]:
    """A finished run with an EMA teacher in its retraining stage."""
    folder = tmp_path_factory.mktemp("tiny")
    register(folder / "photos")
    quick = CONFIGS / "quick_schedules"
    (folder / "pipeline.yaml").write_text(
        f"""
DATASETS: {{TRAIN: [tp_train_weak], TEST: [tp_test_weak]}}
MODEL: {{DEVICE: cpu}}
WEAKSAM:
  CAMS: {{SCALES: [1.0]}}
  PROMPTS: {{SOURCES: [Grid, CoarseCAMPeaks], GRID: {{POINTS_PER_SIDE: 4}}}}
  SAM: {{BACKEND: FakeSam}}
  EMA_TEACHER: {{DECAY: 0.9, LOSS_WEIGHT: 0.5, SCORE_THRESH: 0.3}}
PIPELINE:
  CAMS_CONFIG: {quick / "classifier_lite0.yaml"}
  WSOD_CONFIG: {quick / "oicr_lite0.yaml"}
  RETRAIN_CONFIG: {quick / "faster_rcnn_lite0_roi_drop.yaml"}
  SELECTIVE_SEARCH: False
  REPORT_IMAGES: 1
  ROUNDS: 2
SEED: 3
"""
    )
    settings = PipelineSettings(
        folder / "pipeline.yaml",
        folder / "run",
        stage_opts={"classifier": SMALL, "wsod": WEAK, "retrain": RETRAIN},
    )
    metrics = Pipeline(settings).run()
    yield TinyPipeline(folder / "run", folder / "photos", settings, metrics)
    for name in NAMES:
        for kind in ("weak", "eval"):
            DatasetCatalog.remove(f"{name}_{kind}")
            MetadataCatalog.remove(f"{name}_{kind}")
