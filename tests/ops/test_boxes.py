"""Tests of weaksam_d2.ops.boxes."""

import numpy as np
import pytest
import torch

from weaksam_d2.ops import (
    clip_boxes,
    deduplicate,
    pairwise_iof,
    pairwise_iou,
    valid_boxes,
)


def random_boxes(n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 12, (n, 2), generator=generator)
    return torch.cat([low, low + torch.randint(1, 9, (n, 2), generator=generator)], 1).float()


def cells(box: torch.Tensor) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def test_overlaps_equal_counted_pixels() -> None:
    a, b = random_boxes(12, 0), random_boxes(9, 1)
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            both, either = len(cells(p) & cells(q)), len(cells(p) | cells(q))
            assert pairwise_iou(a, b)[i, j].item() == pytest.approx(both / either)
            assert pairwise_iof(a, b)[i, j].item() == pytest.approx(both / len(cells(p)))


def test_containment_is_not_symmetric() -> None:
    small, big = torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([[0.0, 0, 100, 100]])
    assert pairwise_iof(small, big).item() == 1
    assert pairwise_iof(big, small).item() == pytest.approx(0.16)
    assert pairwise_iou(small, big).item() == pytest.approx(0.16)


def test_boxes_without_area_overlap_nothing() -> None:
    flat = torch.tensor([[3.0, 3, 3, 3], [5.0, 5, 1, 1]])
    assert pairwise_iou(flat, flat).tolist() == [[0, 0], [0, 0]]
    assert pairwise_iof(flat, torch.tensor([[0.0, 0, 9, 9]])).tolist() == [[0], [0]]


def test_no_boxes_give_empty_matrices() -> None:
    none = torch.zeros(0, 4)
    assert pairwise_iou(none, random_boxes(3, 0)).shape == (0, 3)
    assert pairwise_iof(random_boxes(3, 0), none).shape == (3, 0)
    assert deduplicate(none, 0.5).shape == (0,)
    assert valid_boxes(none, (4, 4)).shape == (0,)


def test_overlaps_take_leading_dimensions_and_half_precision() -> None:
    boxes = torch.stack([random_boxes(4, 2), random_boxes(4, 3)])
    together = pairwise_iou(boxes, boxes)
    assert torch.equal(together[1], pairwise_iou(boxes[1], boxes[1]))
    assert pairwise_iou(boxes[0].half(), boxes[0].half()).dtype == torch.float32
    assert pairwise_iou(boxes[0].double(), boxes[0].double()).dtype == torch.float64


def test_voc_corners_become_a_half_open_area() -> None:
    box = torch.tensor([[48.0 - 1, 240 - 1, 195, 371]])
    assert pairwise_iou(box, torch.tensor([[0.0, 0, 500, 500]])).item() == pytest.approx(
        19536 / 250000
    )


def test_clipping_and_validity_follow_the_image() -> None:
    boxes = torch.tensor(
        [
            [-5.0, -5, 50, 50],  # clipped to the whole image
            [20.0, 0, 30, 10],  # right of it
            [2.0, 2, 2, 5],  # no width
            [0.0, 0, float("nan"), 4],
            [0.0, 0, float("inf"), 4],
            [1.0, 1, 2, 2],
        ]
    )
    assert clip_boxes(boxes[:2], (10, 20)).tolist() == [[0, 0, 20, 10], [20, 0, 20, 10]]
    assert valid_boxes(boxes, (10, 20)).tolist() == [True, False, False, False, False, True]


def test_deduplication_keeps_the_first_of_equal_boxes() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 5, 5], [9.0, 9, 12, 12], [0.01, 0, 5, 5], [0.0, 0, 5, 5.07], [9.0, 9, 12, 12]]
    )
    assert deduplicate(boxes, 1 / 16).tolist() == [0, 1, 3]


def test_deduplication_equals_a_set_of_rounded_rows() -> None:
    boxes = random_boxes(300, 4)[:, [0, 1, 0, 1]] % 4
    seen: set[tuple[float, ...]] = set()
    expected = []
    for i, row in enumerate(np.round(boxes.numpy() / 2).tolist()):
        if tuple(row) not in seen:
            seen.add(tuple(row))
            expected.append(i)
    assert deduplicate(boxes, 2).tolist() == expected


def test_a_step_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        deduplicate(torch.zeros(1, 4), 0)
