"""The average of weights and its targets against hand-worked values."""

import pytest
import torch
from torch import nn

from weaksam_d2.ops.ema import ema_decay, ema_update, teacher_targets


@pytest.mark.parametrize(
    ("step", "expected"), [(-1, 0.0), (0, 0.1), (1, 2 / 11), (8, 0.5), (80, 0.9), (10**6, 0.9)]
)
def test_the_first_updates_follow_quickly(step: int, expected: float) -> None:
    assert ema_decay(0.9, step) == pytest.approx(expected)


def test_parameters_are_averaged_and_buffers_copied() -> None:
    average, current = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        current.weight.fill_(3.0)
        current.running_mean.fill_(7.0)
    ema_update(average, current, 0.75)
    assert average.weight.item() == pytest.approx(1.5)  # 0.75 * 1 + 0.25 * 3
    assert average.running_mean.item() == 7.0
    with torch.no_grad():
        current.weight.fill_(0.1)
    ema_update(average, current, 0.0)
    assert torch.equal(average.weight, current.weight)


def test_a_target_is_tagged_sure_and_new() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 10, 10],  # the pseudo box once more: IoU 1
            [0.0, 0, 10, 5],  # IoU .5 with it
            [0.0, 0, 10, 4.9],  # just below
            [0.0, 0, 10, 10],  # there, but of the other tag
            [20.0, 20, 30, 30],  # new, of no tag
            [20.0, 20, 30, 30],  # new, not sure
            [20.0, 20, 30, 30],  # new
        ]
    )
    keep = teacher_targets(
        boxes,
        torch.tensor([0.9, 0.9, 0.9, 0.9, 0.9, 0.69, 0.7]),
        torch.tensor([0, 0, 0, 2, 1, 0, 0]),
        tags=torch.tensor([0, 2]),
        given_boxes=torch.tensor([[0.0, 0, 10, 10]]),
        given_classes=torch.tensor([0]),
        score_thresh=0.7,
    )
    assert keep.tolist() == [False, False, True, True, False, False, True]


def test_an_image_without_pseudo_boxes_or_tags() -> None:
    given = {"given_boxes": torch.zeros(0, 4), "given_classes": torch.zeros(0, dtype=torch.int64)}
    boxes, one = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0])
    for tags, expected in (([0], [True]), ([], [False])):
        keep = teacher_targets(
            boxes,
            torch.ones(1),
            one,
            tags=torch.tensor(tags, dtype=torch.int64),
            score_thresh=0.5,
            **given,
        )
        assert keep.tolist() == expected
