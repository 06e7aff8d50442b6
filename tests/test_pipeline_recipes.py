"""The published recipes as pipelines: {OICR, MIST} labels x {VOC 2007, VOC 2012, COCO 2014}."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog

from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.pipeline.pipeline import CONFIG_OF
from weaksam_d2.projects import add_all_configs

PIPELINES = Path(__file__).resolve().parents[1] / "configs" / "pipelines"
CLASSES = {"voc07": 20, "voc12": 20, "coco14": 80}
# weaksam.md, Sec. 9: rate, iterations, steps, first iteration of RoI drop; of 16 images a step.
RETRAIN = {
    "voc07": (0.02, 9000, (6000, 8000), -1),
    "voc12": (0.015, 16000, (10000, 14000), -1),
    "coco14": (0.02, 85000, (55000, 75000), 10000),
}


def load(path: Path) -> Any:
    cfg = base_config(add_all_configs)
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("data", CLASSES)
@pytest.mark.parametrize("head", ["oicr", "mist"])
def test_a_published_pipeline_joins_recipes_of_one_data_set(data: str, head: str) -> None:
    cfg = load(PIPELINES / f"{data}_{head}.yaml")
    stages = {
        stage: load(PIPELINES / path)
        for stage, key in CONFIG_OF.items()
        if (path := getattr(cfg.PIPELINE, key))
    }
    assert {"classifier", "wsod", "retrain"} <= set(stages)
    assert {s.MODEL.ROI_HEADS.NUM_CLASSES for s in stages.values()} == {CLASSES[data]}
    assert all(name in DatasetCatalog.list() for name in cfg.DATASETS.TRAIN + cfg.DATASETS.TEST)
    assert stages["retrain"].DATASETS.TRAIN == stages["wsod"].DATASETS.TRAIN == cfg.DATASETS.TRAIN
    assert (stages["wsod"].MODEL.WSOD.SEED_MINER == "MIST") == (head == "mist")
    solver = stages["retrain"].SOLVER
    found = (solver.BASE_LR, solver.MAX_ITER, solver.STEPS)
    assert (*found, stages["retrain"].MODEL.ROI_DROP.START_ITER) == RETRAIN[data]
    assert solver.IMS_PER_BATCH == 16
