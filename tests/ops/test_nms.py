"""Tests of weaksam_d2.ops.nms."""

import pytest
import torch

from weaksam_d2.ops import batched_nms, nms, pairwise_iou, unscored_nms


def random_boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=generator) * 40
    return torch.cat([low, low + 1 + torch.rand(n, 2, generator=generator) * 30], 1)


def slow_nms(boxes: torch.Tensor, order: list[int], thr: float) -> list[int]:
    iou = pairwise_iou(boxes.double(), boxes.double())
    kept: list[int] = []
    for i in order:
        if all(iou[i, j] <= thr for j in kept):
            kept.append(i)
    return kept


def test_a_removed_box_cannot_remove() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 95], [0, 0, 100, 89]])
    assert unscored_nms(boxes, 0.9).tolist() == [0, 2]


@pytest.mark.parametrize("thr", [0.1, 0.3, 0.7])
def test_nms_equals_the_greedy_loop(thr: float) -> None:
    boxes = random_boxes(60, 0)
    scores = torch.randint(0, 8, (60,), generator=torch.Generator().manual_seed(1)) / 8
    order = sorted(range(60), key=lambda i: (-scores[i].item(), i))
    assert nms(boxes, scores, thr).tolist() == slow_nms(boxes, order, thr)
    assert unscored_nms(boxes, thr).tolist() == slow_nms(boxes, list(range(60)), thr)


def test_an_overlap_that_equals_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 1], [0.0, 0, 3, 1]])  # IoU 3/10
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.3).tolist() == [0, 1]
    assert nms(boxes, torch.tensor([0.9, 0.8]), 0.29).tolist() == [0]


def test_equal_scores_keep_the_first() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]] * 50 + [[50.0, 50, 60, 60]])
    assert nms(boxes, torch.ones(51), 0.5).tolist() == [0, 50]


def test_classes_do_not_suppress_each_other() -> None:
    boxes = random_boxes(60, 2)
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(60, generator=generator)
    classes = torch.randint(0, 4, (60,), generator=generator)
    expected = []
    for c in range(4):
        rows = (classes == c).nonzero()[:, 0]
        expected += rows[nms(boxes[rows], scores[rows], 0.3)].tolist()
    kept = batched_nms(boxes, scores, classes, 0.3).tolist()
    assert kept == sorted(expected, key=lambda i: -scores[i].item())


def test_nothing_stays_nothing() -> None:
    none, no_scores = torch.zeros(0, 4), torch.zeros(0)
    assert nms(none, no_scores, 0.5).shape == (0,)
    assert unscored_nms(none, 0.5).dtype == torch.int64
    assert batched_nms(none, no_scores, torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)
