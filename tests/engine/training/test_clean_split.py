"""Images whose pseudo boxes a detector fits, against a plain loop."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.detection_utils import build_augmentation
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils.events import EventStorage
from torch import nn

from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.stored_config import load_detector, stored_config
from weaksam_d2.engine.training.clean_split import LOSSES, clean_split, image_losses, split_records


@pytest.fixture
def cfg(tiny_pipeline: Any) -> Any:
    layout = Layout(tiny_pipeline.root)
    off = ("MODEL.DEVICE", "cpu", "MODEL.ROI_DROP.MODE", "off")
    cfg = stored_config(layout.retrain, opts=off)
    cfg.MODEL.WEIGHTS = str(layout.retrain / "model_final.pth")
    cfg.DATASETS.TRAIN = ("tp_train_weak",)
    labels: Path = layout.pseudo_gt("adaptive") / "pseudo_gt.json"
    cfg.DATASETS.PSEUDO_GT_TRAIN = (str(labels),)
    known = set(DatasetCatalog.list())
    yield cfg
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)


def test_losses_are_those_of_each_image_alone_and_change_nothing(cfg: Any) -> None:
    model, records = load_detector(cfg, cfg.MODEL.WEIGHTS), split_records(cfg)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = image_losses(cfg, model, records)
    assert torch.equal(torch.get_rng_state(), random) and not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert list(found) == [record["image_id"] for record in records] and len(found) > 1
    mapper = DatasetMapper(True, augmentations=build_augmentation(cfg, False), image_format="RGB")
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm | FrozenBatchNorm2d):
            module.eval()
    for record in records[::-1]:
        torch.manual_seed(0)
        with EventStorage():
            losses = model([mapper(record)])
        assert set(losses) == set(LOSSES)
        total = sum(value.item() for value in losses.values())
        assert found[record["image_id"]] == pytest.approx(total, rel=1e-6)


def test_the_smallest_losses_are_clean_and_order_stays() -> None:
    losses = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 1.0, "e": 2.0}
    assert clean_split(losses, 3) == (["b", "c", "d"], ["a", "e"])
    assert clean_split(losses, 5) == (list("abcde"), [])
    for count in (0, 6):
        with pytest.raises(ValueError, match=f"have {count} images, expected 1 to 5"):
            clean_split(losses, count)


def test_what_has_no_such_losses_is_refused(cfg: Any) -> None:
    with pytest.raises(ValueError, match="a Linear has no R-CNN losses"):
        image_losses(cfg, nn.Linear(1, 1), [])
    cfg.DATASETS.PSEUDO_GT_TRAIN = ()
    with pytest.raises(ValueError, match="has 0 files for the 1 sets"):
        split_records(cfg)
