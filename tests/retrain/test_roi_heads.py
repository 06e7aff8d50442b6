"""The three heads against their parents, and in someone else's config."""

from math import isfinite
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.retrain import RoIDropFastRCNNOutputLayers
from weaksam_d2.retrain.roi_drop import KEPT_FIELD

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


def losses_of(cfg: Any, batch: list[dict[str, Any]] | None = None) -> dict[str, float]:
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage():
        losses = model(batch or make_batch())
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


def with_masks(cfg: Any) -> Any:
    cfg.MODEL.MASK_ON = True
    head = cfg.MODEL.ROI_MASK_HEAD
    head.NAME, head.NUM_CONV, head.CONV_DIM = "MaskRCNNConvUpsampleHead", 1, 8
    head.POOLER_RESOLUTION = 4
    return cfg


def batch_with(**fields: Any) -> list[dict[str, Any]]:
    batch = make_batch()
    for name, value in fields.items():
        batch[0]["instances"].set(name, value)
    return batch


def object_masks() -> BitMasks:
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    masks[0, 8:36, 8:36] = masks[1, 20:50, 40:80] = True
    return BitMasks(masks)


MASKED = ("RoIDropROIHeads", "RoIDropCascadeROIHeads")


@pytest.mark.parametrize("ours", MASKED)
def test_the_mask_loss_of_dropped_regions_goes_only_if_asked_for(ours: str) -> None:
    batch = batch_with(gt_masks=object_masks())
    loose = {"CLS_THRESH": 1e6, "REG_THRESH": 1e6}
    tight = {"CLS_THRESH": 1e-9, "MODE": "cls"}
    stock = losses_of(with_masks(plain_config(PARENTS[ours])), batch)["loss_mask"]
    assert stock > 0
    for drop, expected in (
        ({"MASK": True, "MODE": "off"}, stock),
        ({"MASK": True, "START_ITER": 5}, stock),
        ({"MASK": True, **loose}, stock),
        ({"MASK": False, **tight}, stock),
        ({"MASK": True, **tight}, 0.0),
    ):
        found = losses_of(with_masks(our_config(ours, **drop)), batch)["loss_mask"]
        assert found == pytest.approx(expected, abs=1e-7), drop


def test_the_mask_loss_is_that_of_the_kept_over_all_objects() -> None:
    heads = build_model(with_masks(our_config("RoIDropROIHeads", MASK=True))).roi_heads.train()
    generator = torch.Generator().manual_seed(0)
    features = {
        "p4": torch.randn(1, 16, 4, 6, generator=generator),
        "p5": torch.randn(1, 16, 2, 3, generator=generator),
    }
    truth = make_batch()[0]["instances"]
    place = torch.tensor([0, 1, 0, 1, 1])
    regions = Instances(
        truth.image_size,
        proposal_boxes=truth.gt_boxes[place],
        gt_boxes=truth.gt_boxes[place],
        gt_classes=torch.tensor([0, 2, 0, 3, 2]),  # the fourth is background
        gt_masks=object_masks()[place],
    )
    keep = torch.tensor([True, True, False, True, False])
    with EventStorage():
        alone = [heads._forward_mask(features, [regions[row]])["loss_mask"] for row in (0, 1)]
        regions.set(KEPT_FIELD, keep)
        found = heads._forward_mask(features, [regions])["loss_mask"]
        torch.testing.assert_close(found, sum(alone) / 4)
        regions.set(KEPT_FIELD, torch.zeros_like(keep))
        nothing = heads._forward_mask(features, [regions])["loss_mask"]
    nothing.backward()
    assert nothing == 0 and heads.mask_head.predictor.weight.grad is not None


def test_only_chosen_stages_of_a_cascade_drop() -> None:
    stock = losses_of(plain_config("CascadeROIHeads"))
    cfg = our_config("RoIDropCascadeROIHeads", STAGES=(1,), CLS_THRESH=1e-3, REG_THRESH=1e-3)
    found = losses_of(cfg)
    changed = {name for name in stock if found[name] != stock[name]}
    assert changed == {"loss_cls_stage1", "loss_box_reg_stage1"}


@pytest.mark.parametrize(
    ("ours", "drop", "message"),
    [
        ("RoIDropCascadeROIHeads", {"STAGES": (0, 3)}, "STAGES is .*0 to 2"),
        ("RoIDropCascadeROIHeads", {"STAGES": (1, 2), "MASK": True}, "MASK follows stage 0"),
        ("RoIDropRes5ROIHeads", {"MASK": True}, "MASK is not possible"),
    ],
)
def test_what_a_head_cannot_do_is_refused(ours: str, drop: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(with_masks(our_config(ours, **drop)))


@pytest.mark.parametrize("ours", PARENTS)
def test_scores_weigh_the_losses_of_matched_regions_in_every_stage(ours: str) -> None:
    stock = losses_of(plain_config(PARENTS[ours]))
    weighted = {"SCORE_WEIGHT": "score_norm", "START_ITER": 5}  # before the drop, too
    ones, halves = torch.ones(2), torch.full((2,), 0.5)
    same = losses_of(our_config(ours, **weighted), batch_with(gt_score_norm=ones))
    assert same == pytest.approx(stock, abs=1e-6)
    less = losses_of(our_config(ours, **weighted), batch_with(gt_score_norm=halves))
    for name, loss in stock.items():
        if name.startswith("loss_box_reg"):
            assert less[name] == pytest.approx(loss / 2, abs=1e-6) and loss > 0, name
        elif name.startswith("loss_cls"):
            assert loss / 2 - 1e-6 <= less[name] < loss, name
        else:
            assert less[name] == loss, name


def test_scores_go_to_the_regions_of_their_own_box() -> None:
    cfg = our_config("RoIDropCascadeROIHeads", SCORE_WEIGHT="score_norm")
    heads = build_model(cfg).roi_heads.train()
    truth = batch_with(gt_score_norm=torch.tensor([0.25, 0.75]))[0]["instances"]
    boxes = truth.gt_boxes.tensor[[1, 0, 1]]
    regions = Instances(truth.image_size, proposal_boxes=Boxes(boxes))
    empty = Instances(truth.image_size, proposal_boxes=Boxes(boxes))
    with EventStorage():
        heads._match_and_label_boxes([regions, empty], 1, [truth, truth[:0]])
    assert regions.gt_score_norm.tolist() == [0.75, 0.25, 0.75]
    assert empty.gt_score_norm.tolist() == [1, 1, 1]


def test_weights_without_scores_are_an_error() -> None:
    with pytest.raises(ValueError, match="gt_score_norm"):
        losses_of(our_config("RoIDropROIHeads", SCORE_WEIGHT="score_norm"))


@pytest.mark.parametrize("ours", PARENTS)
def test_mixed_precision_on_a_cpu_gives_the_losses_of_float32(ours: str) -> None:
    exact = losses_of(our_config(ours))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses_of(our_config(ours))
    assert found.keys() == exact.keys()
    assert all(isfinite(loss) for loss in found.values())
    for name, loss in exact.items():
        if not name.endswith(("_stage1", "_stage2")):  # their boxes are predicted: others match
            assert found[name] == pytest.approx(loss, rel=0.1, abs=0.05), name


@pytest.mark.parametrize("ours", PARENTS)
def test_percentile_limits_work_in_every_head(ours: str) -> None:
    cfg = our_config(ours, THRESHOLD="percentile", EMA=0.0, PERCENTILE=50, DROP_BACKGROUND=True)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, RoIDropFastRCNNOutputLayers):
            module.cls_score.weight.data /= 100  # the random network is too sure: equal losses
    with EventStorage() as storage:
        sum(model(make_batch()).values()).backward()
        shares = [v for k, (v, _) in storage.latest().items() if k.endswith("roi_drop/frac_bg")]
    assert shares and all(0.2 < share <= 0.5 for share in shares)
    names = [name for name in model.state_dict() if name.endswith("limits.running")]
    assert len(names) == len(shares)


def test_gradients_accumulate_over_batches_of_equal_size() -> None:
    torch.manual_seed(0)
    model = build_model(our_config("RoIDropROIHeads", REG_THRESH=0.3)).roi_heads
    predictor, generator = model.box_predictor, torch.Generator().manual_seed(0)
    truth = make_batch()[0]["instances"]
    shaken = truth.gt_boxes.tensor + 4 * torch.rand(2, 2, 4, generator=generator)
    regions = [
        Instances(
            truth.image_size,
            proposal_boxes=Boxes(boxes),
            gt_boxes=truth.gt_boxes,
            gt_classes=torch.tensor([0, 3]),
        )
        for boxes in shaken
    ]
    features = torch.randn(4, predictor.cls_score.in_features, generator=generator)

    def gradient(*parts: slice) -> list[torch.Tensor]:
        predictor.zero_grad()
        for part in parts:
            rows = slice(2 * part.start, 2 * part.stop)
            losses = predictor.losses(predictor(features[rows]), regions[part])
            (sum(losses.values()) / len(parts)).backward()
        return [p.grad.clone() for p in predictor.parameters()]

    whole, parts = gradient(slice(0, 2)), gradient(slice(0, 1), slice(1, 2))
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
