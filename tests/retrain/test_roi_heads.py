"""The three heads against their parents, and in someone else's config."""

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.retrain import RoIDropFastRCNNOutputLayers

PARENTS = {
    "RoIDropROIHeads": "StandardROIHeads",
    "RoIDropRes5ROIHeads": "Res5ROIHeads",
    "RoIDropCascadeROIHeads": "CascadeROIHeads",
}


def plain_config(head: str) -> Any:
    """What a user of detectron2 has: a small R-CNN without a key of ours."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 16
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 4
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = 50
    cfg.MODEL.ROI_HEADS.NAME = head
    cfg.SOLVER.MAX_ITER = 1
    if head == "Res5ROIHeads":
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
        return cfg
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res4", "res5"]
    cfg.MODEL.RPN.IN_FEATURES = cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p4", "p5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64]]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = head == "CascadeROIHeads"
    return cfg


def our_config(ours: str, **drop: Any) -> Any:
    cfg = plain_config(PARENTS[ours])
    add_weaksam_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = ours
    for key, value in drop.items():
        setattr(cfg.MODEL.ROI_DROP, key, value)
    return cfg


def make_batch() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    truth = Instances(
        (64, 96),
        gt_boxes=Boxes(torch.tensor([[4.0, 4, 40, 40], [30, 10, 90, 60]])),
        gt_classes=torch.tensor([0, 2]),
    )
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=generator)
    return [{"image": image, "height": 64, "width": 96, "instances": truth}]


def losses_of(cfg: Any) -> dict[str, float]:
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model(make_batch())
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.parametrize("ours", PARENTS)
def test_parameters_have_the_parents_names_and_values(ours: str) -> None:
    torch.manual_seed(0)
    stock = build_model(plain_config(PARENTS[ours])).state_dict()
    torch.manual_seed(0)
    found = build_model(our_config(ours)).state_dict()
    assert list(found) == list(stock)
    assert all(torch.equal(found[name], stock[name]) for name in stock)


@pytest.mark.parametrize("ours", PARENTS)
def test_switched_off_and_before_the_start_it_is_the_parent_exactly(ours: str) -> None:
    stock = losses_of(plain_config(PARENTS[ours]))
    assert losses_of(our_config(ours, MODE="off")) == stock
    assert losses_of(our_config(ours, START_ITER=5)) == stock


@pytest.mark.parametrize("ours", PARENTS)
def test_huge_thresholds_are_the_parent_and_small_ones_are_not(ours: str) -> None:
    stock = losses_of(plain_config(PARENTS[ours]))
    loose = losses_of(our_config(ours, CLS_THRESH=1e6, REG_THRESH=1e6))
    assert loose == pytest.approx(stock, abs=1e-6)
    tight = losses_of(our_config(ours, CLS_THRESH=1e-3, REG_THRESH=1e-3))
    changed = {name for name in stock if tight[name] != stock[name]}
    assert changed == {name for name in stock if name.startswith(("loss_cls", "loss_box_reg"))}


@pytest.mark.parametrize("ours", PARENTS)
def test_every_parameter_gets_a_gradient_with_and_without_objects(ours: str) -> None:
    model = build_model(our_config(ours)).train()
    empty = make_batch()
    empty[0]["instances"] = Instances(
        (64, 96), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64)
    )
    for batch in (make_batch(), empty):
        model.zero_grad()
        with EventStorage():
            sum(model(batch).values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_stage_of_a_cascade_drops() -> None:
    model = build_model(our_config("RoIDropCascadeROIHeads")).train()
    assert [type(p) for p in model.roi_heads.box_predictor] == [RoIDropFastRCNNOutputLayers] * 3
    with EventStorage() as storage:
        model(make_batch())
        names = set(storage.latest())
    assert {f"stage{k}/roi_drop/active" for k in range(3)} <= names


def test_someone_elses_config_trains_with_a_switch_of_the_head() -> None:
    cfg = plain_config("StandardROIHeads")
    add_weaksam_config(cfg)
    cfg.MODEL.ROI_HEADS.NAME = "RoIDropROIHeads"
    cfg.MODEL.ROI_DROP.CLS_THRESH, cfg.MODEL.ROI_DROP.REG_THRESH = 4.0, 1.0
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = model.roi_heads.box_predictor.cls_score.weight.detach().clone()
    with EventStorage() as storage:
        for _ in range(2):
            losses = model(make_batch())
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            storage.step()
        assert "roi_drop/by_cls" in storage.latest()
    assert not torch.equal(before, model.roi_heads.box_predictor.cls_score.weight)
    model.eval()
    assert "instances" in model([{"image": make_batch()[0]["image"], "height": 64, "width": 96}])[0]


def test_sigmoid_losses_are_refused_from_the_config() -> None:
    cfg = our_config("RoIDropROIHeads")
    cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
    with pytest.raises(ValueError, match="USE_SIGMOID_CE"):
        build_model(cfg)
