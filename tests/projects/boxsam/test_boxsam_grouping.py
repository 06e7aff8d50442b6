"""Which masks are the object of a box: the worked example and every way to fail."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from weaksam_d2.projects.boxsam import group_masks_in_box
from weaksam_d2.projects.boxsam.grouping import box_overlap, choose_mask

WHOLE = torch.tensor([0.0, 0, 4, 4])
CORNER = torch.tensor([2.0, 2, 4, 4])


def masks(*rows: list[str]) -> Tensor:
    return torch.tensor([[[cell == "#" for cell in line] for line in row] for row in rows])


PERSON = masks(["###."] * 4, ["##..", "##..", "....", "...."])
BOTTLE = masks(["....", "..#.", "..##", "..##"], ["....", "....", "....", "...#"])


def test_the_worked_example_of_the_specification() -> None:
    assert box_overlap(PERSON, WHOLE).tolist() == [0.75, 0.25]
    assert box_overlap(BOTTLE, CORNER).tolist() == [0.8, 0.25]
    scores = torch.tensor([0.5, 0.9])
    mask, flags = group_masks_in_box(PERSON, scores, WHOLE)
    assert mask.equal(PERSON[0]) and flags == ()
    mask, flags = group_masks_in_box(BOTTLE, scores, CORNER)
    assert mask.equal(masks(["....", "....", "..##", "..##"])[0]) and flags == ()


def test_at_a_tie_the_higher_predicted_iou_and_then_the_first_is_taken() -> None:
    tied = masks(["##..", "##..", "....", "...."], ["..##", "..##", "....", "...."])
    options = {"threshold": 0.2}
    assert choose_mask(tied, torch.tensor([0.5, 0.6]), WHOLE, **options)[0] == 1
    assert choose_mask(tied, torch.tensor([0.6, 0.6]), WHOLE, **options)[0] == 0


def test_below_the_threshold_the_highest_predicted_iou_is_taken_and_flagged() -> None:
    thin = masks(["#...", "....", "....", "...."], ["##..", "....", "....", "...."])
    mask, flags = group_masks_in_box(thin, torch.tensor([0.9, 0.8]), WHOLE)
    assert mask.equal(thin[0]) and flags == ("low_overlap",)
    # An overlap of the threshold itself is enough.
    found, flags = group_masks_in_box(thin, torch.tensor([0.9, 0.8]), WHOLE, threshold=0.125)
    assert found.equal(thin[1]) and flags == ()


def test_predicted_iou_looks_at_no_overlap() -> None:
    mask, flags = group_masks_in_box(PERSON, torch.tensor([0.5, 0.9]), WHOLE, mode="predicted_iou")
    assert mask.equal(PERSON[1]) and flags == ()


def test_an_empty_mask_is_flagged() -> None:
    nothing = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask, flags = group_masks_in_box(nothing, torch.ones(3), WHOLE)
    assert not mask.any() and flags == ("low_overlap", "empty_mask")
    outside = masks(["##..", "##..", "....", "...."])
    flags = group_masks_in_box(outside, torch.ones(1), CORNER, mode="predicted_iou")[1]
    assert flags == ("empty_mask",)


def test_a_mask_that_fills_its_box_is_legal() -> None:
    full = torch.ones(1, 4, 4, dtype=torch.bool)
    mask, flags = group_masks_in_box(full, torch.ones(1), WHOLE)
    assert mask.all() and flags == ()


def test_automatic_masks_in_the_box_are_joined_and_parts_add_nothing() -> None:
    body = ["####", "####", "....", "...."]  # o .5
    legs = ["....", "....", "####", "#..."]  # o .3125
    part = ["##..", "##..", "....", "...."]  # a part of the body
    tiny = ["....", "....", "....", "...#"]  # o .0625: too little
    mask, flags = group_masks_in_box(
        masks(tiny, part, legs, body), torch.ones(4), WHOLE, mode="everything", threshold=0.25
    )
    assert mask.equal(masks(["####", "####", "####", "#..."])[0]) and flags == ()


def test_automatic_masks_outside_the_box_do_not_count() -> None:
    mostly_outside = masks(["####"] * 4)
    mask, flags = group_masks_in_box(mostly_outside, torch.ones(1), CORNER, mode="everything")
    assert not mask.any() and flags == ("ungrouped",)
    none = torch.zeros(0, 4, 4, dtype=torch.bool)
    assert group_masks_in_box(none, torch.zeros(0), WHOLE, mode="everything")[1] == ("ungrouped",)


def slow_everything(given_masks: Tensor, box: Tensor, threshold: float) -> np.ndarray:
    """Pixel by pixel, as the specification says it."""
    size = given_masks.shape[1:]
    inside = {
        (y, x)
        for y in range(size[0])
        for x in range(size[1])
        if box[0] <= x + 0.5 < box[2] and box[1] <= y + 0.5 < box[3]
    }
    sets = [{(int(y), int(x)) for y, x in m.nonzero()} for m in given_masks]
    overlap = [len(s & inside) / len(s | inside) for s in sets]
    accepted: set[tuple[int, int]] = set()
    for row in sorted(range(len(sets)), key=lambda i: -overlap[i]):
        own = sets[row]
        if not own or len(own & inside) / len(own) < 0.9 or overlap[row] < threshold:
            continue
        if len(own & accepted) / len(own) < 0.9:
            accepted |= own
    return np.array([[(y, x) in accepted & inside for x in range(size[1])] for y in range(size[0])])


@given(st.integers(0, 2**30), st.integers(0, 5))
def test_the_union_equals_a_slow_reference(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 5, (count, 2), generator=generator)
    side = torch.randint(1, 7, (count, 2), generator=generator)
    drawn = torch.zeros(count, 7, 8, dtype=torch.bool)
    for mask, (y, x), (h, w) in zip(drawn, corner.tolist(), side.tolist(), strict=True):
        mask[y : y + h, x : x + w] = True
    box = torch.tensor([1.0, 0, 7, 6])
    mask, _ = group_masks_in_box(drawn, torch.ones(count), box, mode="everything", threshold=0.2)
    np.testing.assert_array_equal(mask.numpy(), slow_everything(drawn, box, 0.2))


def test_an_unknown_mode_and_a_prompt_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="SEGMENTER.MODE is 'best'"):
        group_masks_in_box(PERSON, torch.ones(2), WHOLE, mode="best")
    with pytest.raises(ValueError, match="got none"):
        group_masks_in_box(PERSON[:0], torch.ones(0), WHOLE)
    with pytest.raises(ValueError, match="everything"):
        choose_mask(PERSON, torch.ones(2), WHOLE, mode="everything")
