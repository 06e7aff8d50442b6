"""Running percentiles as limits: alone, and in the predictor."""

from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from weaksam_d2.retrain import PercentileLimits, RoIDropFastRCNNOutputLayers, RoIDropSettings

NAN = float("nan")
LOSSES = torch.arange(1.0, 41)  # 20 of foreground, 20 of background
FRONT = LOSSES <= 20


def settings(**options: Any) -> RoIDropSettings:
    return RoIDropSettings(**{"threshold": "percentile", "mode": "cls", **options})


def same(found: torch.Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected).float(), equal_nan=True)


def test_the_first_batch_teaches_and_the_second_is_judged() -> None:
    limits = PercentileLimits(settings())
    first = limits(LOSSES, LOSSES / 2, FRONT)
    assert first.classification.isnan().all() and torch.isnan(first.box)
    same(limits.running, [18, 9, 38])
    second = limits(LOSSES + 2, LOSSES / 2, FRONT)
    same(second.classification[:20], [18.0] * 20)
    assert second.classification[20:].isnan().all(), "background is exempt"
    same(limits.running, [18.02, 9, 38.02])


def test_background_may_be_judged_in_its_own_pool() -> None:
    limits = PercentileLimits(settings(drop_background=True, ema=0.0))
    found = limits(LOSSES, LOSSES, FRONT)
    same(found.classification, [18.0] * 20 + [38.0] * 20)


def test_too_few_objects_neither_drop_nor_teach() -> None:
    limits = PercentileLimits(settings())
    limits(LOSSES, LOSSES, FRONT)
    found = limits(LOSSES, LOSSES, LOSSES <= 9)
    assert found.classification.isnan().all()
    assert limits.running[0] == 18


def test_limits_are_in_the_checkpoint_and_stay_float32() -> None:
    limits = PercentileLimits(settings())
    limits(LOSSES, LOSSES, FRONT)
    other = PercentileLimits(settings())
    other.load_state_dict(limits.state_dict())
    same(other.running, [18, 18, 38])
    assert other.bfloat16().running.dtype == torch.float32


def test_ranks_are_merged_by_the_mean_of_those_that_have_a_limit() -> None:
    limits = PercentileLimits(settings())
    limits.merge_running([torch.tensor([2.0, NAN, 1.0]), torch.tensor([4.0, NAN, NAN])])
    same(limits.running, [3.0, NAN, 1.0])


def predictor(drop: RoIDropSettings | None, **options: Any) -> FastRCNNOutputLayers:
    kind = FastRCNNOutputLayers if drop is None else RoIDropFastRCNNOutputLayers
    extra = {} if drop is None else {"drop": drop}
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    return kind(
        ShapeSpec(channels=8), box2box_transform=transform, num_classes=1, **extra, **options
    )


def batch() -> tuple[Any, list[Instances]]:
    """Twenty objects and twenty background regions; the box losses of objects are 1 .. 20."""
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 20]]).repeat(40, 1))
    labels = torch.tensor([0] * 20 + [1] * 20)
    regions = Instances((40, 40), proposal_boxes=boxes, gt_boxes=boxes, gt_classes=labels)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 2, generator=generator)
    return (logits, LOSSES[:, None].repeat(1, 4) / 4), [regions]


def test_without_momentum_exactly_a_tenth_of_the_objects_goes() -> None:
    given, regions = batch()
    with EventStorage() as storage:
        losses = predictor(settings(mode="reg", ema=0.0)).losses(given, regions)
        latest = {name: value for name, (value, _) in storage.latest().items()}
    assert losses["loss_box_reg"].item() == pytest.approx(sum(range(1, 19)) / 40)
    assert latest["roi_drop/frac_fg"] == pytest.approx(0.1)
    assert latest["roi_drop/frac_bg"] == 0
    assert latest["roi_drop/limit_fg_reg"] == pytest.approx(18 / 4)


def test_before_the_start_limits_are_learned_and_nothing_is_dropped() -> None:
    given, regions = batch()
    layers = predictor(settings(mode="reg", start_iter=10))
    with EventStorage(9):
        assert layers.losses(given, regions) == predictor(None).losses(given, regions)
    assert layers.limits is not None
    assert layers.limits.running[1] == pytest.approx(18 / 4)
    with EventStorage(10):
        assert layers.losses(given, regions)["loss_box_reg"].item() == pytest.approx(171 / 40)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_percentiles_need_no_threshold_for_another_box_loss(kind: str) -> None:
    given, regions = batch()
    shifted = (given[0], given[1] / 20)
    with EventStorage():
        stock = predictor(None, box_reg_loss_type=kind).losses(shifted, regions)
        layers = predictor(settings(mode="reg", ema=0.0), box_reg_loss_type=kind)
        found = layers.losses(shifted, regions)
    assert 0 < found["loss_box_reg"] < stock["loss_box_reg"]


def test_absolute_limits_and_mode_off_have_no_buffer() -> None:
    for drop in (RoIDropSettings(), settings(mode="off")):
        assert predictor(drop).state_dict().keys() == predictor(None).state_dict().keys()
    assert "limits.running" in predictor(settings()).state_dict()
