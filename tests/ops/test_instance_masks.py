"""Masks that stand for boxes, on worked examples and against pixel loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops.instance_masks import box_masks, choose_masks, fit_masks, same_boxes

SIZE = (6, 8)


def slow_box_mask(box: list[float], size: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    for y in range(size[0]):
        for x in range(size[1]):
            mask[y, x] = box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
    return mask


def test_the_example_of_the_specification() -> None:
    mask = box_masks(torch.tensor([[1.0, 1.0, 3.0, 3.0]]), (4, 4))
    assert int(mask.sum()) == 4 and mask[0, 1:3, 1:3].all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 16)] * 4), min_size=1, max_size=4))
def test_a_filled_box_holds_the_pixels_whose_centers_it_holds(
    corners: list[tuple[int, ...]],
) -> None:
    boxes = [[min(a, c) / 2, min(b, d) / 2, max(a, c) / 2, max(b, d) / 2] for a, b, c, d in corners]
    made = box_masks(torch.tensor(boxes), SIZE)
    for box, mask in zip(boxes, made, strict=True):
        expected = slow_box_mask(box, SIZE)
        if expected.any():
            assert mask.equal(expected), box
        else:
            assert mask.any(), box


def test_a_box_between_two_centers_gets_the_pixel_of_its_own_center() -> None:
    mask = box_masks(torch.tensor([[2.6, 1.6, 2.9, 1.9]]), SIZE)
    assert torch.nonzero(mask).tolist() == [[0, 1, 2]]


def test_an_empty_mask_becomes_its_box_and_others_stay() -> None:
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[1, 0:2, 0:4] = True  # half of it in the box
    masks[2, 5, 7] = True  # all of it outside
    boxes = torch.tensor([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    fitted = fit_masks(masks, boxes)
    assert fitted.fallback.tolist() == [True, False, False]
    assert fitted.masks[0].equal(slow_box_mask([1, 1, 3, 3], SIZE))
    assert fitted.masks[1:].equal(masks[1:])
    assert torch.isnan(fitted.inside[0]) and fitted.inside[1:].tolist() == [0.5, 0.0]
    clipped = fit_masks(masks, boxes, clip=True)
    assert clipped.fallback.tolist() == [True, False, True]
    assert clipped.masks[1].equal(masks[1] & slow_box_mask([0, 0, 2, 2], SIZE))
    assert clipped.masks.flatten(1).any(dim=1).all()
    assert clipped.inside[1:].tolist() == [0.5, 0.0]


def test_masks_are_chosen_by_quality_or_by_their_box() -> None:
    masks = torch.zeros(2, 3, *SIZE, dtype=torch.bool)
    masks[0, 0, 0:2, 0:2] = True
    masks[0, 1, 0:4, 0:4] = True
    masks[1, 2, 1:3, 1:3] = True
    masks[1, 1, 0:6, 0:8] = True
    quality = torch.tensor([[0.9, 0.8, 0.7], [0.9, 0.1, 0.2]])
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 3.0, 3.0]])
    assert choose_masks(masks, quality, boxes, "best_of_3").tolist() == [0, 0]
    assert choose_masks(masks, quality, boxes, "best_box").tolist() == [1, 2]
    assert choose_masks(masks[:, :1], quality[:, :1], boxes, "single").tolist() == [0, 0]
    with pytest.raises(ValueError, match="takes one mask"):
        choose_masks(masks, quality, boxes, "single")
    with pytest.raises(ValueError, match="'largest'"):
        choose_masks(masks, quality, boxes, "largest")


def test_only_empty_masks_are_no_error() -> None:
    masks = torch.zeros(1, 3, *SIZE, dtype=torch.bool)
    chosen = choose_masks(
        masks, torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 2.0, 2.0]]), "best_box"
    )
    assert chosen.tolist() == [0]


def test_boxes_are_the_same_up_to_less_than_half_a_pixel() -> None:
    stored = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 4.0, 4.0]])
    boxes = torch.tensor([[0.4, 0.0, 4.0, 4.0], [0.5, 0.0, 4.0, 3.5], [1.0, 0.001, 4.0, 4.0]])
    assert same_boxes(boxes, stored).tolist() == [0, -1, 1]
    assert same_boxes(boxes, stored[:0]).tolist() == [-1, -1, -1]
    assert same_boxes(boxes[:0], stored).tolist() == []
