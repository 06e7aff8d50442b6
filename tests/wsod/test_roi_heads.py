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


@pytest.mark.parametrize("boxes", [[], BOXES[:1], BOXES])
@pytest.mark.parametrize("labels", [[], [0], [0, 2]])
def test_every_parameter_has_a_gradient_whatever_is_missing(
    wsod_cfg: CfgNode, boxes: list[list[float]], labels: list[int]
) -> None:
    heads = make_heads(wsod_cfg).train()
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
        (lambda c: setattr(c.MODEL.ROI_HEADS, "IN_FEATURES", ["res4"]), r"\['res4'\].*concat"),
    ],
)
def test_wrong_values_name_their_key(
    wsod_cfg: CfgNode, set_wrong: Callable[[Any], None], message: str
) -> None:
    set_wrong(wsod_cfg)
    with pytest.raises(ValueError, match=message):
        WSODROIHeads(wsod_cfg, SHAPES)
