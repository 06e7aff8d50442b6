"""The weakly supervised ROI head: losses, gradients, detections."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances
from torch import Tensor

from weaksam_d2.data import ImageTags
from weaksam_d2.ops import encode_boxes, pairwise_iou
from weaksam_d2.wsod import (
    MILOutputLayers,
    RefinementBranch,
    TopScoring,
    WeightedCrossEntropy,
    WSODBoxHead,
    WSODROIHeads,
)

SHAPES = {"concat": ShapeSpec(channels=4, stride=16)}
BOXES = [[0.0, 0, 40, 40], [2, 2, 40, 40], [30, 30, 64, 64], [0, 0, 64, 64]]


def make_proposals(boxes: list[list[float]]) -> Instances:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(
        (64, 64), proposal_boxes=Boxes(tensor), objectness_logits=torch.zeros(len(tensor))
    )


def make_features(images: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"concat": torch.rand(images, 4, 4, 4, generator=generator)}


def make_heads(cfg: CfgNode, **keys: Any) -> WSODROIHeads:
    for key, value in keys.items():
        setattr(cfg.MODEL.WSOD, key, value)
    torch.manual_seed(0)
    return WSODROIHeads(cfg, SHAPES)


def test_losses_have_their_names_and_reach_every_parameter(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg).train()
    proposals = [make_proposals(BOXES), make_proposals(BOXES[:1])]
    targets = [torch.tensor([2]), torch.tensor([], dtype=torch.int64)]
    _, losses = heads(None, make_features(2), proposals, targets)
    assert list(losses) == ["loss_mil", "loss_refine_1", "loss_refine_2", "loss_refine_3"]
    sum(losses.values()).backward()
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


HEADS: dict[str, dict[str, Any]] = {
    "wsddn": {"NUM_REFINEMENTS": 0},
    "oicr": {},
    "classic": {"SEED_MINER": "TopScoring", "REFINE_NORM": "weights", "ROI_WEIGHT": "image"},
    "pcl": {"REFINEMENT_LOSS": "PCL"},
    "mist": {"SEED_MINER": "MIST", "REGRESSION": "class_specific", "BACKGROUND_COLUMN": True},
    "agnostic": {"REGRESSION": "class_agnostic", "LOG_EPS": 0.0},
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("boxes", [[], BOXES[:1], BOXES])
@pytest.mark.parametrize("labels", [[], [0], [0, 2]])
def test_every_parameter_has_a_gradient_whatever_is_missing(
    wsod_cfg: CfgNode, boxes: list[list[float]], labels: list[int], kind: str
) -> None:
    heads = make_heads(wsod_cfg, **HEADS[kind]).train()
    target = torch.tensor(labels, dtype=torch.int64)
    _, losses = heads(None, make_features(1), [make_proposals(boxes)], [target])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    for name, parameter in heads.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_an_image_without_labels_has_refinement_losses_of_zero(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg).train()
    none = torch.tensor([], dtype=torch.int64)
    _, losses = heads(None, make_features(1), [make_proposals(BOXES)], [none])
    assert losses["loss_mil"] > 0
    assert [losses[f"loss_refine_{k}"].item() for k in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_a_batch_is_the_mean_of_its_images(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, DROPOUT=0.0).train()
    features = make_features(2)
    images = [
        (make_proposals(BOXES), torch.tensor([1])),
        (make_proposals(BOXES[1:]), torch.tensor([0])),
    ]
    _, both = heads(None, features, [p for p, _ in images], [t for _, t in images])
    alone = [
        heads(None, {"concat": features["concat"][i : i + 1]}, [p], [t])[1]
        for i, (p, t) in enumerate(images)
    ]
    for name, loss in both.items():
        assert loss.item() == pytest.approx((alone[0][name] + alone[1][name]).item() / 2, rel=1e-5)


def test_the_first_branch_can_weigh_more(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, DROPOUT=0.0).train()
    args = (None, make_features(1), [make_proposals(BOXES)], [torch.tensor([1])])
    _, plain = heads(*args)
    heads.first_branch_weight = 3.0
    _, weighted = heads(*args)
    assert weighted["loss_refine_1"].item() == pytest.approx(3 * plain["loss_refine_1"].item())
    assert weighted["loss_refine_2"].item() == plain["loss_refine_2"].item()


def test_config_and_keywords_make_the_same_head(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.SEED_MINER = "TopScoring"
    from_cfg = make_heads(wsod_cfg)
    pooler = ROIPooler(3, [1 / 16], 0, "ROIAlignV2")
    head = WSODBoxHead(ShapeSpec(channels=4, height=3, width=3), num_fc=1, fc_dim=16)
    by_hand = WSODROIHeads(
        num_classes=3,
        in_features=["concat"],
        box_pooler=pooler,
        box_head=head,
        mil=MILOutputLayers(16, num_classes=3),
        refinement=[RefinementBranch(16, num_classes=3) for _ in range(3)],
        seed_miner=TopScoring(),
        refinement_loss=WeightedCrossEntropy(),
    )
    by_hand.load_state_dict(from_cfg.state_dict())
    args = (None, make_features(1), [make_proposals(BOXES)])
    found, _ = from_cfg.eval()(*args)
    expected, _ = by_hand.eval()(*args)
    assert len(found[0]) and torch.equal(found[0].scores, expected[0].scores)


def test_branches_without_a_miner_are_refused() -> None:
    shape = ShapeSpec(channels=4, height=3, width=3)
    with pytest.raises(ValueError, match="seed_miner"):
        WSODROIHeads(
            num_classes=3,
            in_features=["concat"],
            box_pooler=ROIPooler(3, [1 / 16], 0, "ROIAlignV2"),
            box_head=WSODBoxHead(shape, num_fc=1, fc_dim=8),
            mil=MILOutputLayers(8, num_classes=3),
            refinement=[RefinementBranch(8, num_classes=3)],
        )


@pytest.mark.parametrize("kind", HEADS)
def test_permuting_proposals_changes_no_loss(wsod_cfg: CfgNode, kind: str) -> None:
    heads = make_heads(wsod_cfg, DROPOUT=0.0, INIT_STD=1.0, **HEADS[kind]).train()
    target = [torch.tensor([0, 2])]
    _, given = heads(None, make_features(1), [make_proposals(BOXES)], target)
    moved = [BOXES[i] for i in (2, 0, 3, 1)]
    _, other = heads(None, make_features(1), [make_proposals(moved)], target)
    for name, loss in given.items():
        torch.testing.assert_close(other[name], loss, msg=name)


def test_box_losses_have_their_names_and_factors(wsod_cfg: CfgNode) -> None:
    heads = make_heads(
        wsod_cfg, DROPOUT=0.0, REGRESSION="class_specific", SEED_MINER="TopScoring"
    ).train()
    args = (None, make_features(1), [make_proposals(BOXES)], [torch.tensor([1])])
    _, plain = heads(*args)
    assert list(plain) == [
        "loss_mil",
        *(f"loss_{part}_{k}" for k in (1, 2, 3) for part in ("refine", "box_reg")),
    ]
    heads.first_branch_weight, heads.regression_weight = 3.0, 2.0
    _, weighted = heads(*args)
    assert plain["loss_box_reg_1"] > 0
    ratios = [(weighted[n] / plain[n]).item() for n in ("loss_box_reg_1", "loss_box_reg_2")]
    assert ratios == pytest.approx([6.0, 2.0])


def test_the_box_loss_is_the_formula_over_foreground_proposals(wsod_cfg: CfgNode) -> None:
    """One seed, K = 1: the sum of w x smooth L1 over the foreground, over all proposals."""
    heads = make_heads(
        wsod_cfg, DROPOUT=0.0, NUM_REFINEMENTS=1, REGRESSION="class_specific", INIT_STD=0.3,
        SEED_MINER="TopScoring",
    ).train()  # fmt: skip
    proposals, features = make_proposals(BOXES), make_features(1)
    _, losses = heads(None, features, [proposals], [torch.tensor([1])])
    rows = heads.region_features(features, [proposals])
    scores = heads.mil(rows, [4])[0].detach()
    seed = int(scores[:, 1].argmax())
    iou = pairwise_iou(proposals.proposal_boxes.tensor, proposals.proposal_boxes.tensor)[seed]
    deltas, total = heads.refinement[0].box_deltas(rows), 0.0
    for r in range(4):
        if iou[r] >= 0.5:
            target = encode_boxes(torch.tensor(BOXES[seed]), torch.tensor(BOXES[r]))
            gap = (deltas[r, 1] - target).abs()
            cost = torch.where(gap < 1, 0.5 * gap**2, gap - 0.5).sum()
            total += scores[seed, 1].item() * cost.item() / 4
    assert total > 0
    assert losses["loss_box_reg_1"].item() == pytest.approx(total, rel=1e-4)


def test_boxes_are_decoded_from_the_mean_of_the_branches(wsod_cfg: CfgNode) -> None:
    """Deltas 1, 2 and 3 for the center of a box 10 wide: 2 / 10 x 10 = 2 pixels."""
    heads = make_heads(wsod_cfg, REGRESSION="class_specific").eval()
    with torch.no_grad():
        for k, branch in enumerate(heads.refinement, start=1):
            branch.regression.weight.zero_()
            branch.regression.bias.copy_(torch.tensor([k, 0.0, 0, 0] * 3))
    (boxes,) = heads.predicted_boxes(torch.rand(1, 16), [make_proposals([[10, 0, 20, 10]])])
    torch.testing.assert_close(boxes, torch.tensor([[[12.0, 0, 22, 10]] * 3]))


def test_one_box_for_all_classes_comes_from_the_last_branch(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, REGRESSION="class_agnostic").eval()
    assert [b.regression is None for b in heads.refinement] == [True, True, False]
    with torch.no_grad():
        heads.refinement[2].regression.weight.zero_()
        heads.refinement[2].regression.bias.copy_(torch.tensor([2.0, 0, 0, 0]))
    (boxes,) = heads.predicted_boxes(torch.rand(1, 16), [make_proposals([[10, 0, 20, 10]])])
    torch.testing.assert_close(boxes, torch.tensor([[[12.0, 0, 22, 10]] * 3]))


def test_the_background_column_is_never_a_class(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, NUM_REFINEMENTS=0, BACKGROUND_COLUMN=True)
    features, proposals = torch.rand(4, 16), [make_proposals(BOXES)]
    streams = heads.eval().mil(features, [4])[0]
    assert streams.shape == (4, 4)
    torch.testing.assert_close(heads.class_scores(features, proposals)[0], streams[:, :3])
    phi = streams.sum(0).clamp(1e-6, 1 - 1e-6)
    expected = -(phi[0].log() + (1 - phi[1:]).log().sum())
    torch.testing.assert_close(heads.mil.loss([streams], [torch.tensor([0])]), expected)


def test_a_proposal_may_weigh_the_score_of_its_class_in_the_image(wsod_cfg: CfgNode) -> None:
    keys = {"DROPOUT": 0.0, "NUM_REFINEMENTS": 1, "SEED_MINER": "TopScoring"}
    losses, args = {}, (make_features(1), [make_proposals(BOXES)])
    for weight in ("seed", "image"):
        heads = make_heads(wsod_cfg, ROI_WEIGHT=weight, **keys).train()
        losses[weight] = heads(None, *args, [torch.tensor([1])])[1]["loss_refine_1"]
    scores = heads.mil(heads.region_features(*args), [4])[0]
    ratio = (scores[:, 1].sum() / scores[:, 1].max()).item()
    assert (losses["image"] / losses["seed"]).item() == pytest.approx(ratio, rel=1e-4)


def test_what_an_unknown_class_claims_is_left_out(wsod_cfg: CfgNode) -> None:
    """A proposal that class 2, of which nobody knows, claims is not pushed to background."""
    heads = make_heads(wsod_cfg, SEED_MINER="TopScoring", REGRESSION="class_specific")
    scores = torch.tensor([[0.6, 0.0, 0.1], [0.2, 0.0, 0.5], [0.0, 0.0, 0.9], [0.0, 0.9, 0.2]])
    unknown = torch.tensor([False, False, True])
    logits = torch.zeros(4, 4, requires_grad=True)
    deltas = torch.zeros(4, 3, 4, requires_grad=True)
    tags = ImageTags(torch.tensor([0]), unknown)
    losses = heads._teach(logits, deltas, scores, torch.ones(3), make_proposals(BOXES), tags)
    sum(losses).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum(1).gt(0).tolist() == [True, True, False, True]


def test_objectness_scales_what_is_pooled(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, OBJECTNESS_SCALE=True).eval()
    seen: list[Tensor] = []
    heads.box_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    proposals = make_proposals(BOXES)
    for value in (torch.zeros(4), torch.tensor([0.0, 1.0, 0.5, 0.0])):
        proposals.objectness = value
        heads.region_features(make_features(1), [proposals])
    factor = torch.tensor([1.0, 2.0, 1.5, 1.0])[:, None, None, None]
    torch.testing.assert_close(seen[1], seen[0] * factor)


def test_heads_compute_in_float32_under_autocast(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg, **HEADS["mist"]).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        args = (make_features(1), [make_proposals(BOXES)], [torch.tensor([0])])
        _, losses = heads(None, *args)
    assert {loss.dtype for loss in losses.values()} == {torch.float32}


class _Scores(WSODROIHeads):
    """A head whose scores are given, to look at what follows them."""

    given: list[Tensor]

    def class_scores(self, region_features: Tensor, proposals: list[Instances]) -> list[Tensor]:
        return self.given


def detect(
    cfg: CfgNode,
    boxes: list[list[float]],
    scores: list[list[float]],
    present: list[int] | None = None,
) -> Instances:
    heads = _Scores(cfg, SHAPES).eval()
    heads.given = [torch.tensor(scores).reshape(-1, 3)]
    proposals = make_proposals(boxes)
    if present is not None:
        mask = torch.zeros(3, dtype=torch.bool)
        mask[present] = True
        proposals.image_labels = mask.expand(len(proposals), -1)
    results, losses = heads(None, make_features(1), [proposals])
    assert losses == {}
    return results[0]


def test_the_last_class_can_be_detected(wsod_cfg: CfgNode) -> None:
    found = detect(wsod_cfg, BOXES[:1], [[0.0, 0.0, 0.9]])
    assert found.pred_classes.tolist() == [2]
    assert found.scores.tolist() == pytest.approx([0.9])


def test_suppression_is_per_class_and_the_threshold_is_strict(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.25
    scores = [[0.9, 0.0, 0.5], [0.8, 0.25, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.0]]
    found = detect(wsod_cfg, BOXES, scores)
    pairs = list(zip(found.pred_classes.tolist(), found.pred_boxes.tensor.tolist(), strict=True))
    assert pairs == [(0, BOXES[0]), (0, BOXES[2]), (2, BOXES[0])]


def test_absent_classes_are_cut_before_the_top_k(wsod_cfg: CfgNode) -> None:
    wsod_cfg.TEST.DETECTIONS_PER_IMAGE = 1
    scores = [[0.9, 0.1, 0.0]]
    assert detect(wsod_cfg, BOXES[:1], scores).pred_classes.tolist() == [0]
    assert detect(wsod_cfg, BOXES[:1], scores, present=[1]).pred_classes.tolist() == [1]
    assert len(detect(wsod_cfg, BOXES[:1], scores, present=[])) == 0


def test_boxes_are_clipped_and_empty_ones_dropped(wsod_cfg: CfgNode) -> None:
    boxes = [[-5.0, -5, 30, 30], [70, 70, 90, 90]]
    found = detect(wsod_cfg, boxes, [[0.9, 0.0, 0.0], [0.8, 0.0, 0.0]])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 30, 30]]


def test_an_image_without_proposals_has_no_detections(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg).eval()
    results, _ = heads(None, make_features(1), [make_proposals([])])
    assert len(results[0]) == 0


def test_scores_are_the_mean_of_the_branches_or_those_of_the_streams(wsod_cfg: CfgNode) -> None:
    heads = make_heads(wsod_cfg).eval()
    features, proposals = torch.rand(4, 16), [make_proposals(BOXES)]
    by_hand = sum(b(features).softmax(1) for b in heads.refinement) / 3
    torch.testing.assert_close(heads.class_scores(features, proposals)[0], by_hand[:, :3])
    alone = make_heads(wsod_cfg, NUM_REFINEMENTS=0).eval()
    torch.testing.assert_close(
        alone.class_scores(features, proposals)[0], alone.mil(features, [4])[0]
    )
    _, losses = alone.train()(None, make_features(1), proposals, [torch.tensor([0])])
    assert list(losses) == ["loss_mil"]


@pytest.mark.parametrize(
    "set_wrong, message",
    [
        (lambda c: setattr(c.MODEL.WSOD, "NUM_REFINEMENTS", -1), "NUM_REFINEMENTS"),
        (lambda c: setattr(c.MODEL.WSOD, "DROPOUT", 1.0), "DROPOUT"),
        (lambda c: setattr(c.MODEL.WSOD, "ROI_WEIGHT", "mean"), "ROI_WEIGHT is 'mean'"),
        (lambda c: setattr(c.MODEL.WSOD, "REFINE_NORM", "mean"), "REFINE_NORM is 'mean'"),
        (lambda c: setattr(c.MODEL.WSOD, "REGRESSION", "all"), "REGRESSION is 'all'"),
        (lambda c: setattr(c.MODEL.WSOD, "LOG_EPS", -1.0), "LOG_EPS"),
        (lambda c: setattr(c.MODEL.WSOD.DROPBLOCK, "METHOD", "x"), "METHOD is 'x'"),
        (lambda c: setattr(c.MODEL.ROI_HEADS, "IN_FEATURES", ["res4"]), r"\['res4'\].*concat"),
    ],
)
def test_wrong_values_name_their_key(
    wsod_cfg: CfgNode, set_wrong: Callable[[Any], None], message: str
) -> None:
    set_wrong(wsod_cfg)
    with pytest.raises(ValueError, match=message):
        WSODROIHeads(wsod_cfg, SHAPES)
