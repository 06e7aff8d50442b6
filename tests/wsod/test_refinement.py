"""Refinement: weights, labels and the loss of a branch."""

from math import log

import pytest
import torch
from detectron2.config import CfgNode

from weaksam_d2.ops.seeds import Seeds
from weaksam_d2.wsod import RefinementBranch, WeightedCrossEntropy, build_refinement_loss

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])


def seed(*scores: float) -> Seeds:
    n = len(scores)
    return Seeds(BOXES[:n], torch.zeros(n, dtype=torch.int64), torch.tensor(scores))


def test_the_example_of_the_specification() -> None:
    logits = torch.zeros(3, 2)  # both classes: cross entropy ln 2
    loss = WeightedCrossEntropy(log_eps=0.0)(logits, BOXES, seed(0.6))
    assert loss.item() == pytest.approx(0.6 * log(2))
    shifted = WeightedCrossEntropy(log_eps=1e-6)(logits, BOXES, seed(0.6))
    assert shifted.item() == pytest.approx(-0.6 * log(0.5 + 1e-6))


def test_the_foreground_learns_its_class_and_the_rest_background() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    WeightedCrossEntropy()(logits, BOXES, seed(0.6)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] < 0).tolist() == [True, True, False]


def test_proposals_below_the_ignore_iou_have_no_weight() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    WeightedCrossEntropy(ignore_iou=0.1)(logits, BOXES, seed(0.6)).backward()
    assert logits.grad is not None
    assert logits.grad[2].tolist() == [0.0, 0.0]
    assert logits.grad[0, 0] != 0


@pytest.mark.parametrize("count", [0, 3])
def test_without_seeds_or_proposals_the_loss_is_zero_with_a_gradient(count: int) -> None:
    logits = torch.zeros(count, 2, requires_grad=True)
    loss = WeightedCrossEntropy()(logits, BOXES[:count], seed())
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_config_and_keywords_make_the_same_loss(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.FG_IOU, wsod_cfg.MODEL.WSOD.IGNORE_IOU = 0.6, 0.1
    built = build_refinement_loss(wsod_cfg)
    assert vars(built) == vars(WeightedCrossEntropy(fg_iou=0.6, ignore_iou=0.1))


def test_an_unknown_loss_is_refused_with_the_known_ones(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.REFINEMENT_LOSS = "Hinge"
    with pytest.raises(ValueError, match="'Hinge'.*WeightedCrossEntropy"):
        build_refinement_loss(wsod_cfg)


def test_contradictory_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"IGNORE_IOU 0\.6 and FG_IOU 0\.5"):
        WeightedCrossEntropy(ignore_iou=0.6)


def test_a_branch_gives_float32_logits_with_a_background_column() -> None:
    branch = RefinementBranch(4, num_classes=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = branch(torch.randn(5, 4, dtype=torch.bfloat16))
    assert logits.shape == (5, 3) and logits.dtype == torch.float32
