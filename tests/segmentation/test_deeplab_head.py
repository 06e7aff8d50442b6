"""DeepLab heads: shapes, sums, losses without labels, and the stock head's window."""

import math
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_sem_seg_head
from torch.nn import functional as F

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.segmentation import DeepLabV2Head, LabelLoss

SHAPES = {"res2": ShapeSpec(channels=8, stride=4), "res5": ShapeSpec(channels=16, stride=8)}
FEATURES = {"res2": torch.rand(2, 8, 16, 24), "res5": torch.rand(2, 16, 8, 12)}


def config(name: str) -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME, head.LOSS_TYPE, head.NUM_CLASSES, head.NORM = name, "cross_entropy", 5, ""
    head.IN_FEATURES = ["res5"] if name == "DeepLabV2Head" else ["res2", "res5"]
    head.CONVS_DIM = head.ASPP_CHANNELS = 16
    return cfg


def test_v2_sums_its_dilated_convolutions() -> None:
    head = DeepLabV2Head(
        SHAPES, in_feature="res5", num_classes=3, dilations=(1, 4), loss=LabelLoss()
    ).eval()
    for branch in head.branches:
        torch.nn.init.normal_(branch.bias)
    logits, losses = head(FEATURES)
    expected: Any = 0
    for rate, branch in zip((1, 4), head.branches, strict=True):
        weight, bias = branch.weight, branch.bias
        expected = expected + F.conv2d(FEATURES["res5"], weight, bias, padding=rate, dilation=rate)
    expected = F.interpolate(expected, size=(64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected)
    assert losses == {}


@pytest.mark.parametrize("name", ["DeepLabV2Head", "LabelDeepLabV3PlusHead"])
def test_a_head_has_a_finite_loss_with_and_without_labels(name: str) -> None:
    cfg = config(name)
    cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = 2.0
    head = build_sem_seg_head(cfg, SHAPES).train()
    labels = torch.randint(0, 5, (2, 64, 96))
    labels[0] = 255
    nothing, losses = head(FEATURES, labels)
    assert nothing is None
    # Weights are small at first, so all classes are about as likely; the weight is 2.
    assert losses["loss_sem_seg"].item() == pytest.approx(2 * math.log(5), rel=0.2)
    _, losses = head(FEATURES, torch.full((2, 64, 96), 255))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_v3plus_needs_no_crop_size_and_takes_smaller_images() -> None:
    cfg = config("LabelDeepLabV3PlusHead")
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "center", [320, 320]
    head = build_sem_seg_head(cfg, SHAPES).eval()
    assert head(FEATURES)[0].shape == (2, 5, 64, 96)
    assert cfg.INPUT.CROP.ENABLED  # the config is not changed


def test_wrong_features_are_named() -> None:
    cfg = config("DeepLabV2Head")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res5"]
    with pytest.raises(ValueError, match=r"IN_FEATURES is \['res2', 'res5'\]"):
        build_sem_seg_head(cfg, SHAPES)
    with pytest.raises(ValueError, match="'bn7'"):
        DeepLabV2Head(SHAPES, in_feature="bn7", num_classes=3, dilations=(1,), loss=LabelLoss())
