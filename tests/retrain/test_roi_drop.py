"""The box predictor that drops regions: formulas, schedule, logging, take-over."""

from math import log
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.retrain import (
    RoIDropFastRCNNOutputLayers,
    RoIDropSettings,
    swap_box_predictors,
)

TRANSFORM = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
LOOSE = 1e6


def make_layers(
    drop: RoIDropSettings | None = None, *, num_classes: int = 1, **options: Any
) -> FastRCNNOutputLayers:
    kind = FastRCNNOutputLayers if drop is None else RoIDropFastRCNNOutputLayers
    extra = {} if drop is None else {"drop": drop}
    return kind(
        ShapeSpec(channels=8),
        box2box_transform=TRANSFORM,
        num_classes=num_classes,
        **extra,
        **options,
    )


def make_region(labels: list[int], *, with_boxes: bool = True) -> Instances:
    """Regions whose target is the region itself, so that the deltas are the errors."""
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 20]]).repeat(len(labels), 1))
    instances = Instances((40, 40), proposal_boxes=boxes, gt_classes=torch.tensor(labels))
    if with_boxes:
        instances.gt_boxes = boxes
    return instances


def predictions(cls_loss: list[float], reg_sum: list[float], labels: list[int]) -> Any:
    """Logits of two columns and deltas of one class with the wanted losses."""
    logits = torch.zeros(len(labels), 2)
    for row, (loss, label) in enumerate(zip(cls_loss, labels, strict=True)):
        # CE(label) = log(1 + exp(z_other)), z_label = 0
        logits[row, 1 - label] = log(torch.tensor(loss).double().expm1().item())
    deltas = torch.tensor(reg_sum)[:, None].repeat(1, 4) / 4
    return logits.requires_grad_(), deltas.requires_grad_()


CLS, REG, LABELS = [0.5, 4.5, 2.0, 3.0], [1.0, 0.4, 6.0, 9.0], [0, 0, 0, 1]


@pytest.mark.parametrize(
    "mode, norm, expected",
    [
        ("paper", "total", (3.5 / 4, 1 / 4)),
        ("paper", "kept", (3.5 / 2, 1 / 2)),
        ("release_both", "total", (2.5, 7.4 / 4)),
        ("cls", "total", (5.5 / 4, 7 / 4)),
        ("reg", "total", (8.0 / 4, 1.4 / 4)),
    ],
)
def test_the_example_of_the_specification(
    mode: str, norm: str, expected: tuple[float, float]
) -> None:
    for reduce, threshold in (("sum", 4.0), ("mean4", 1.0)):
        drop = RoIDropSettings(mode=mode, norm=norm, reg_reduce=reduce, reg_thresh=threshold)
        losses = make_layers(drop).losses(predictions(CLS, REG, LABELS), [make_region(LABELS)])
        found = (losses["loss_cls"].item(), losses["loss_box_reg"].item())
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_dropped_region_has_no_gradient_and_a_kept_one_has() -> None:
    logits, deltas = predictions(CLS, REG, LABELS)
    losses = make_layers(RoIDropSettings()).losses((logits, deltas), [make_region(LABELS)])
    sum(losses.values()).backward()
    assert logits.grad.any(dim=1).tolist() == [True, False, False, True]
    assert deltas.grad.any(dim=1).tolist() == [True, False, False, False]


def test_background_is_judged_by_its_class_alone() -> None:
    given = predictions([4.2], [0.0], [1])
    kept = make_layers(RoIDropSettings(mode="release_both")).losses(given, [make_region([1])])
    dropped = make_layers(RoIDropSettings()).losses(given, [make_region([1])])
    assert kept["loss_cls"].item() == pytest.approx(4.2, rel=1e-5)
    assert dropped["loss_cls"].item() == 0


def test_equality_keeps_and_a_little_more_drops() -> None:
    layers = make_layers(RoIDropSettings())
    logits = torch.tensor([[9.0, 0.0]])
    for errors, kept in (((1.0, 1.0, 1.0, 1.0), True), ((1.0, 1.0, 1.0, 1.01), False)):
        losses = layers.losses((logits, torch.tensor([errors])), [make_region([0])])
        assert (losses["loss_box_reg"].item() > 0) == kept


def random_case(num_classes: int = 3) -> tuple[tuple[Tensor, Tensor], list[Instances]]:
    generator = torch.Generator().manual_seed(0)
    counts = (5, 4)
    proposals = []
    for n in counts:
        corner = torch.rand(n, 2, generator=generator) * 20
        boxes = torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 20], 1)
        labels = torch.randint(0, num_classes + 1, (n,), generator=generator)
        shifted = boxes + torch.rand(n, 4, generator=generator)
        proposals.append(
            Instances(
                (60, 60), proposal_boxes=Boxes(boxes), gt_boxes=Boxes(shifted), gt_classes=labels
            )
        )
    logits = torch.randn(sum(counts), num_classes + 1, generator=generator)
    deltas = torch.randn(sum(counts), 4 * num_classes, generator=generator)
    return (logits, deltas), proposals


@pytest.mark.parametrize("beta", [0.0, 0.5])
@pytest.mark.parametrize("weight", [1.0, {"loss_box_reg": 2.0}])
def test_huge_thresholds_agree_with_the_parent(beta: float, weight: Any) -> None:
    given, proposals = random_case()
    options = {"num_classes": 3, "smooth_l1_beta": beta, "loss_weight": weight}
    for norm in ("total", "kept"):
        loose = RoIDropSettings(cls_thresh=LOOSE, reg_thresh=LOOSE, norm=norm)
        with EventStorage():
            expected = make_layers(**options).losses(given, proposals)
            found = make_layers(loose, **options).losses(given, proposals)
        assert found.keys() == expected.keys()
        for name, loss in expected.items():
            torch.testing.assert_close(found[name], loss, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_overlap_losses_agree_with_the_parent_and_drop(kind: str) -> None:
    given, proposals = random_case()
    options = {"num_classes": 3, "box_reg_loss_type": kind}
    loose = RoIDropSettings(cls_thresh=LOOSE, reg_thresh=LOOSE)
    tight = RoIDropSettings(cls_thresh=LOOSE, reg_thresh=0.5)
    with EventStorage():
        expected = make_layers(**options).losses(given, proposals)
        found = make_layers(loose, **options).losses(given, proposals)
        less = make_layers(tight, **options).losses(given, proposals)
    torch.testing.assert_close(found["loss_box_reg"], expected["loss_box_reg"])
    assert less["loss_box_reg"] < expected["loss_box_reg"]


def test_class_agnostic_regression_agrees_with_the_parent() -> None:
    (logits, deltas), proposals = random_case()
    options = {"num_classes": 3, "cls_agnostic_bbox_reg": True}
    loose = RoIDropSettings(cls_thresh=LOOSE, reg_thresh=LOOSE)
    with EventStorage():
        expected = make_layers(**options).losses((logits, deltas[:, :4]), proposals)
        found = make_layers(loose, **options).losses((logits, deltas[:, :4]), proposals)
    torch.testing.assert_close(found["loss_box_reg"], expected["loss_box_reg"])


def test_the_foreground_need_not_come_first() -> None:
    labels = [1, 0, 1, 0]
    given = predictions([0.1, 0.2, 0.3, 0.4], [9.0, 8.0, 9.0, 2.0], labels)
    losses = make_layers(RoIDropSettings()).losses(given, [make_region(labels)])
    assert losses["loss_cls"].item() == pytest.approx((0.1 + 0.3 + 0.4) / 4, rel=1e-5)
    assert losses["loss_box_reg"].item() == pytest.approx(2.0 / 4, rel=1e-5)


def test_before_the_start_it_is_the_parent_and_then_it_drops() -> None:
    given, region = predictions(CLS, REG, LABELS), [make_region(LABELS)]
    layers = make_layers(RoIDropSettings(start_iter=2000))
    with EventStorage(1999) as storage:
        assert layers.losses(given, region) == make_layers().losses(given, region)
        assert storage.latest()["roi_drop/active"][0] == 0
    with EventStorage(2000) as storage:
        assert layers.losses(given, region)["loss_cls"].item() == pytest.approx(3.5 / 4)
        assert storage.latest()["roi_drop/active"][0] == 1


def test_mode_off_is_the_parent_exactly() -> None:
    given, proposals = random_case()
    with EventStorage():
        off = make_layers(RoIDropSettings(mode="off"), num_classes=3).losses(given, proposals)
        assert off == make_layers(num_classes=3).losses(given, proposals)


def test_what_is_dropped_is_logged() -> None:
    with EventStorage() as storage:
        make_layers(RoIDropSettings()).losses(predictions(CLS, REG, LABELS), [make_region(LABELS)])
        latest = {k: v for k, (v, _) in storage.latest().items()}
    assert latest["roi_drop/frac_fg"] == pytest.approx(2 / 3)
    assert latest["roi_drop/frac_bg"] == 0
    assert latest["roi_drop/by_cls"] == pytest.approx(1 / 4)
    assert latest["roi_drop/by_reg"] == pytest.approx(1 / 4)
    assert latest["roi_drop/mean_lcls_dropped"] == pytest.approx(6.5 / 2, rel=1e-5)
    assert "fast_rcnn/cls_accuracy" in latest


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error_and_not_a_drop(bad: float) -> None:
    logits, deltas = predictions(CLS, REG, LABELS)
    layers = make_layers(RoIDropSettings())
    spoiled = deltas.detach().clone()
    spoiled[0, 0] = bad
    with pytest.raises(FloatingPointError):
        layers.losses((logits, spoiled), [make_region(LABELS)])
    spoiled = logits.detach().clone()
    spoiled[3, 0] = bad
    with pytest.raises(FloatingPointError):
        layers.losses((spoiled, deltas), [make_region(LABELS)])


def test_without_regions_or_foreground_gradients_are_zero() -> None:
    layers = make_layers(RoIDropSettings())
    for labels in ([], [1, 1]):
        features = torch.randn(len(labels), 8)
        region = make_region(labels, with_boxes=False)
        region.gt_classes = region.gt_classes.long()
        region.proposal_boxes = Boxes(region.proposal_boxes.tensor.reshape(-1, 4))
        layers.zero_grad()
        sum(layers.losses(layers(features), [region]).values()).backward()
        for name, parameter in layers.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_if_all_are_dropped_the_losses_are_zero() -> None:
    given = predictions([9.0, 9.0], [1.0, 1.0], [0, 1])
    for norm in ("total", "kept"):
        losses = make_layers(RoIDropSettings(norm=norm)).losses(given, [make_region([0, 1])])
        assert [loss.item() for loss in losses.values()] == [0.0, 0.0]


def test_the_swap_keeps_layers_and_settings_and_draws_nothing() -> None:
    torch.manual_seed(0)
    stock = make_layers(num_classes=3, smooth_l1_beta=0.3, test_topk_per_image=7)
    state = torch.get_rng_state()
    made = swap_box_predictors({"box_predictor": stock, "other": 1}, RoIDropSettings())
    assert torch.equal(torch.get_rng_state(), state)
    ours = made["box_predictor"]
    assert made["other"] == 1 and isinstance(ours, RoIDropFastRCNNOutputLayers)
    assert ours.cls_score is stock.cls_score and ours.bbox_pred is stock.bbox_pred
    assert {k: v for k, v in vars(stock).items() if k not in ("_modules",)}.items() <= {
        k: v for k, v in vars(ours).items() if k not in ("_modules",)
    }.items()


def test_the_swap_refuses_what_it_does_not_know() -> None:
    ours = make_layers(RoIDropSettings())
    with pytest.raises(ValueError, match="RoIDropFastRCNNOutputLayers"):
        swap_box_predictors({"box_predictor": ours}, RoIDropSettings())
    with pytest.raises(ValueError, match="no box predictor"):
        swap_box_predictors({"box_head": ours}, RoIDropSettings())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"use_sigmoid_ce": True}, "USE_SIGMOID_CE"),
        ({"box_reg_loss_type": "giou"}, r"REG_THRESH 1\.0 is meant for smooth L1"),
    ],
)
def test_losses_without_a_meaning_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_layers(RoIDropSettings(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "both"},
        {"reg_reduce": "mean"},
        {"norm": "all"},
        {"cls_thresh": 0.0},
        {"start_iter": -2},
    ],
)
def test_wrong_settings_name_their_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"MODEL.ROI_DROP.*{next(iter(options)).upper()}"):
        RoIDropSettings(**options)


def test_settings_come_from_the_config() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.SOLVER.MAX_ITER = 9000
    assert RoIDropSettings.from_config(cfg) == RoIDropSettings(start_iter=2000)
    cfg.MODEL.ROI_DROP.START_ITER, cfg.MODEL.ROI_DROP.MODE = 7, "cls"
    assert RoIDropSettings.from_config(cfg) == RoIDropSettings(start_iter=7, mode="cls")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    torch.manual_seed(0)
    built = RoIDropFastRCNNOutputLayers(cfg, ShapeSpec(channels=8))
    torch.manual_seed(0)
    by_hand = make_layers(RoIDropSettings(start_iter=7, mode="cls"), num_classes=3)
    assert torch.equal(built.cls_score.weight, by_hand.cls_score.weight)
    assert built.drop == by_hand.drop
