"""Similarity of boxes: features of known colors, few boxes, order, weights that do not fit."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.engine.analysis.proposal_analysis import (
    RoIFeatures,
    measure_similarity,
    similarity_panels,
    similarity_table,
)
from weaksam_d2.engine.cli import base_config
from weaksam_d2.evaluation import StoreView

SIZE = (64, 128)
LEFT, RIGHT = [10, 10, 50, 50], [80, 10, 120, 50]


class Pooled(Backbone):
    """The image itself, averaged over 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"map": self.scale * F.avg_pool2d(images, 4)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"map": ShapeSpec(channels=3, stride=4)}

    @property
    def size_divisibility(self) -> int:
        return 16


if "build_pooled_backbone" not in BACKBONE_REGISTRY:

    @BACKBONE_REGISTRY.register()
    def build_pooled_backbone(cfg, input_shape):
        return Pooled()


def features(**extra) -> RoIFeatures:
    return RoIFeatures(Pooled(), "map", pixel_mean=(0, 0, 0), pixel_std=(1, 1, 1), **extra)


def two_halves(*_) -> np.ndarray:
    """Red on the left, blue on the right."""
    image = np.zeros((*SIZE, 3), np.uint8)
    image[:, :64, 0] = 200
    image[:, 64:, 2] = 200
    return image


def measure(tmp_path: Path, images: dict[str, list[list[float]]]) -> np.ndarray:
    with ProposalStoreWriter(tmp_path / "store") as writer:
        for image_id, boxes in images.items():
            writer.add(image_id, boxes, image_size=SIZE)
    view = StoreView("ours", ProposalStore.open(tmp_path / "store"))
    records = [{"image_id": image_id, "file_name": "x"} for image_id in images]
    return measure_similarity(records, [view], features(), read=two_halves)["ours"]


def test_boxes_of_one_color_are_alike_and_of_two_are_not(tmp_path: Path) -> None:
    inner = [20, 20, 40, 30]
    images = {"same": [LEFT, inner], "two": [LEFT, RIGHT], "three": [LEFT, RIGHT, inner]}
    images |= {"one": [LEFT], "none": []}
    values = measure(tmp_path, images)
    assert values[:3] == pytest.approx([1.0, 0.0, 1 / 3], abs=1e-6)
    assert np.isnan(values[3:]).all()


def test_the_order_of_boxes_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (20, 2)) * (2, 1)
    boxes = np.concatenate([corner, corner + rng.uniform(10, 20, (20, 2))], axis=1)
    values = measure(tmp_path, {"a": boxes.tolist(), "b": boxes[rng.permutation(20)].tolist()})
    assert 0 < values[0] < 1 and values[0] == pytest.approx(values[1], abs=1e-9)


@pytest.mark.parametrize("resize", [None, T.ResizeShortestEdge([100, 100], 999)])
def test_boxes_follow_the_image_when_it_is_resized(resize, monkeypatch) -> None:
    monkeypatch.setattr("weaksam_d2.engine.analysis.proposal_analysis.CHUNK", 2)
    of_boxes = features(resize=resize)(two_halves())
    found = of_boxes(np.array([LEFT, RIGHT, [0, 0, 128, 64]], np.float32)).numpy()
    expected = [[200, 0, 0], [0, 0, 200], [100, 0, 100]]
    np.testing.assert_allclose(found, expected, atol=4)
    assert of_boxes(np.zeros((0, 4), np.float32)).shape == (0, 3)


def test_means_skip_images_without_a_pair_and_differences_are_paired() -> None:
    nan = float("nan")
    values = {"ours": np.array([0.2, 0.4, nan, 0.6]), "theirs": np.array([0.5, nan, 0.9, 0.7])}
    table = similarity_table(values, resamples=50)
    assert table["ours"]["similarity"] == pytest.approx(0.4) and table["ours"]["images"] == 3
    assert table["theirs"]["similarity"] == pytest.approx(0.7)
    assert table["theirs"]["difference"] == pytest.approx(0.2)  # of the first and last image
    assert table["theirs"]["difference_low"] == pytest.approx(0.1)
    assert table["theirs"]["difference_high"] == pytest.approx(0.3)
    assert 0.2 <= table["ours"]["similarity_low"] < 0.4 < table["ours"]["similarity_high"] <= 0.6
    assert len(similarity_panels(values, table)) == 2
    plain = similarity_table({"none": np.array([nan])}, resamples=0)
    assert math.isnan(plain["none"]["similarity"]) and "similarity_low" not in plain["none"]
    assert len(similarity_panels({"none": np.array([nan])}, plain)) == 2


@pytest.fixture
def cfg(tmp_path: Path):
    cfg = base_config()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.ROI_HEADS.IN_FEATURES = "build_pooled_backbone", ["map"]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    return cfg


def test_weights_of_a_whole_model_fill_the_backbone(cfg) -> None:
    state = {"backbone.scale": torch.tensor([3.0]), "roi_heads.unused": torch.ones(2)}
    torch.save({"model": state}, cfg.MODEL.WEIGHTS)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    found = RoIFeatures.from_config(cfg)(two_halves())(np.array([LEFT], np.float32))
    assert found[0].tolist() == pytest.approx([600, 0, 0], abs=1)


def test_weights_that_leave_a_part_random_are_refused(cfg) -> None:
    torch.save({"model": {"other.scale": torch.ones(1)}}, cfg.MODEL.WEIGHTS)
    with pytest.raises(ValueError, match=r"do not cover 1 .*\['backbone.scale'\]"):
        RoIFeatures.from_config(cfg)
    torch.save({"model": {"backbone.scale": torch.ones(4)}}, cfg.MODEL.WEIGHTS)
    with pytest.raises(ValueError, match=r"do not cover 1 .*\['backbone.scale'\]"):
        RoIFeatures.from_config(cfg)
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match="random weights say nothing"):
        RoIFeatures.from_config(cfg)
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3"]
    with pytest.raises(ValueError, match=r"IN_FEATURES is \('p2', 'p3'\)"):
        RoIFeatures.from_config(cfg)
