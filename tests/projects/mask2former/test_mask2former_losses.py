"""Formulas of masks and classes against loops and the hand-worked example."""

import math

import pytest
import torch
from weaksam_d2.projects.mask2former.mask_losses import (
    bce_rows,
    class_loss,
    dice_rows,
    pairwise_mask_costs,
)


def slow_bce(logits: list[float], truth: list[float], weight: list[float]) -> float:
    total = 0.0
    for x, t, w in zip(logits, truth, weight, strict=True):
        p = 1 / (1 + math.exp(-x))
        total -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
    return total / sum(weight)


def slow_dice(logits: list[float], truth: list[float], weight: list[float]) -> float:
    both = found = wanted = 0.0
    for x, t, w in zip(logits, truth, weight, strict=True):
        p = 1 / (1 + math.exp(-x))
        both, found, wanted = both + w * p * t, found + w * p, wanted + w * t
    return 1 - (2 * both + 1) / (found + wanted + 1)


@pytest.fixture()
def points() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 7, generator=generator) * 3
    truth = torch.rand(3, 7, generator=generator)
    return logits, truth, torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0])


def test_class_loss_is_that_of_the_hand_worked_example() -> None:
    rows = torch.tensor([[3.0, 0.5, 0.2]])
    matched = torch.tensor([[True, True, False]])
    kept = torch.ones_like(matched)
    dropped = torch.tensor([[False, True, True]])
    loss = class_loss(rows, matched, kept, no_object_weight=0.1)
    assert loss.item() == pytest.approx(1.67619, abs=1e-5)
    loss = class_loss(rows, matched, dropped, no_object_weight=0.1)
    assert loss.item() == pytest.approx(0.247619, abs=1e-6)
    loss = class_loss(rows, matched, dropped, no_object_weight=0.1, norm="kept")
    assert loss.item() == pytest.approx(0.52 / 1.1, abs=1e-6)


def test_class_loss_without_drop_is_the_weighted_mean_of_torch() -> None:
    logits = torch.randn(2, 5, 4)
    labels = torch.tensor([[0, 3, 3, 2, 3], [3, 3, 3, 3, 3]])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    wanted = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, weight)
    rows = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    found = class_loss(rows, labels != 3, labels >= 0, no_object_weight=0.1)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_a_dropped_row_may_be_infinite() -> None:
    rows = torch.tensor([[math.inf, 1.0]])
    keep = torch.tensor([[False, True]])
    loss = class_loss(rows, torch.tensor([[True, True]]), keep, no_object_weight=0.1)
    assert loss.item() == pytest.approx(0.5)


@pytest.mark.parametrize("weighted", [False, True])
def test_rows_and_pairs_are_those_of_loops(
    points: tuple[torch.Tensor, torch.Tensor, torch.Tensor], weighted: bool
) -> None:
    logits, truth, weight = points
    used = weight if weighted else torch.ones(7)
    bce, dice = pairwise_mask_costs(logits, truth, weight if weighted else None)
    assert bce.shape == dice.shape == (4, 3)
    for query in range(4):
        for number in range(3):
            lists = (logits[query].tolist(), truth[number].tolist(), used.tolist())
            assert bce[query, number].item() == pytest.approx(slow_bce(*lists), abs=1e-5)
            assert dice[query, number].item() == pytest.approx(slow_dice(*lists), abs=1e-5)
    rows = weight.expand(3, -1) if weighted else None
    assert torch.allclose(bce_rows(logits[:3], truth, rows), bce.diagonal(), atol=1e-5)
    assert torch.allclose(dice_rows(logits[:3], truth, rows), dice.diagonal(), atol=1e-5)


def test_masks_without_a_point_that_counts_have_no_loss() -> None:
    nothing = torch.zeros(2, 5)
    assert bce_rows(torch.randn(2, 5), torch.ones(2, 5), nothing).tolist() == [0, 0]
    assert dice_rows(torch.randn(2, 5), torch.ones(2, 5), nothing).tolist() == [0, 0]
