"""Tests of weaksam_d2.ops.refinement."""

import pytest
import torch

from weaksam_d2.ops import encode_boxes, seed_box_loss


def test_smooth_l1_by_hand() -> None:
    """Half a unit off costs .125, two units 1.5 (weaksam.md, Sec. 5.5)."""
    deltas = torch.zeros(2, 2, 4)
    targets = torch.tensor([[0.5, 0, 0, 0], [0, 2.0, 0, 0]])
    labels, weights = torch.tensor([0, 1]), torch.ones(2)
    loss = seed_box_loss(deltas, targets, labels, weights)
    assert loss.item() == pytest.approx((0.125 + 1.5) / 2)


def test_all_proposals_count_and_only_the_foreground_of_its_class_learns() -> None:
    deltas = torch.ones(4, 3, 4, requires_grad=True)
    targets = torch.zeros(4, 4)
    targets[2:] = torch.nan  # of background, never looked at
    labels = torch.tensor([1, 2, 3, 3])
    weights = torch.tensor([0.5, 0.25, 0.0, 0.0])
    loss = seed_box_loss(deltas, targets, labels, weights)
    assert loss.item() == pytest.approx((0.5 + 0.25) * 4 * 0.5 / 4)
    loss.backward()
    assert deltas.grad is not None and deltas.grad.isfinite().all()
    touched = deltas.grad.abs().sum(dim=2) > 0
    assert touched.nonzero().tolist() == [[0, 1], [1, 2]]


def test_one_box_for_all_classes() -> None:
    deltas = torch.zeros(2, 1, 4)
    loss = seed_box_loss(deltas, torch.ones(2, 4), torch.tensor([5, 9]), torch.tensor([1.0, 0]))
    assert loss.item() == pytest.approx(4 * 0.5 / 2)


def test_no_proposals_give_zero_with_a_graph() -> None:
    deltas = torch.zeros(0, 3, 4, requires_grad=True)
    nothing = torch.zeros(0)
    loss = seed_box_loss(deltas, torch.zeros(0, 4), nothing.long(), nothing)
    loss.backward()
    assert loss.item() == 0


def test_encoding_by_hand_and_back() -> None:
    from detectron2.modeling.box_regression import Box2BoxTransform

    boxes, target = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[1.0, 0, 11, 20]])
    deltas = encode_boxes(target, boxes)
    torch.testing.assert_close(deltas, torch.tensor([[1.0, 5.0, 0.0, 3.465736]]))
    generator = torch.Generator().manual_seed(0)
    low, side = torch.rand(2, 9, 2, generator=generator) * 30
    many = torch.cat([low, low + side + 1], 1)
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(
        encode_boxes(many.flip(0), many), transform.get_deltas(many, many.flip(0))
    )
    back = transform.apply_deltas(encode_boxes(many.flip(0), many), many)
    torch.testing.assert_close(back, many.flip(0), atol=1e-4, rtol=1e-5)
