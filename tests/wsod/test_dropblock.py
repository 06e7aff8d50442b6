"""Concrete DropBlock as a part of the head."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec

from weaksam_d2.wsod import ConcreteDropBlock, WSODROIHeads, build_drop_block

SHAPES = {"concat": ShapeSpec(channels=4, stride=16)}


def certain(value: float, **options: float) -> ConcreteDropBlock:
    """A generator that says the same of every cell."""
    block = ConcreteDropBlock(4, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.shortcut.bias.fill_(value)
    return block


def test_probabilities_stay_below_their_ceiling() -> None:
    assert certain(0.0).ceiling == pytest.approx(0.3 / 9)
    probability = certain(0.0).probability(torch.rand(2, 4, 5, 5))
    assert probability.shape == (2, 1, 5, 5)
    torch.testing.assert_close(probability, torch.full_like(probability, 0.3 / 18))


def test_cells_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    block, regions = certain(50.0), torch.ones(64, 4, 7, 7)
    dropped = block.train()(regions)
    assert (dropped == 0).any() and (dropped > 1).any()
    assert dropped.sum().item() == pytest.approx(regions.sum().item(), rel=1e-4)
    assert torch.equal(dropped.eq(0).all(1), dropped.eq(0).any(1))  # all channels of a cell
    assert block.eval()(regions) is regions


def test_the_main_optimizer_and_the_backbone_do_not_see_the_generator() -> None:
    block = ConcreteDropBlock(4).train()
    assert not any(p.requires_grad for p in block.parameters())
    regions = torch.rand(8, 4, 7, 7, requires_grad=True)
    block.requires_grad_(True)
    block.probability(regions).sum().backward()
    assert regions.grad is None
    assert block.shortcut.weight.grad is not None


def test_the_head_has_one_only_if_asked(wsod_cfg: CfgNode) -> None:
    assert WSODROIHeads(wsod_cfg, SHAPES).drop_block is None
    wsod_cfg.MODEL.WSOD.DROPBLOCK.METHOD = "concrete"
    wsod_cfg.MODEL.WSOD.DROPBLOCK.SIZE = 1
    block = build_drop_block(wsod_cfg, 4)
    assert block is not None and block.ceiling == pytest.approx(0.3)
    names = WSODROIHeads(wsod_cfg, SHAPES).state_dict()
    assert any(name.startswith("drop_block.") for name in names)


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="SIZE odd"):
        ConcreteDropBlock(4, size=4)
    with pytest.raises(ValueError, match="TAU"):
        ConcreteDropBlock(4, tau=0.0)
