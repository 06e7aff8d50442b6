"""Instances to a label map: the worked example and the edge cases."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weaksam_d2.projects.boxsam import FuseSettings, Instance, fuse_instances
from weaksam_d2.projects.boxsam.fuse import label_flags

PERSON, BOTTLE = 14, 4  # labels 15 and 5


def region(*lines: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in line] for line in lines])


BIG = Instance(PERSON, 0.9, region(*["###."] * 4))
SMALL = Instance(BOTTLE, 0.5, region("....", "....", "..##", "..##"))


def fuse(*instances: Instance, **settings: object) -> list[list[int]]:
    label = fuse_instances(instances, (4, 4), FuseSettings(**settings))  # type: ignore[arg-type]
    assert label.dtype == np.uint8
    values: list[list[int]] = label.tolist()
    return values


def test_the_worked_example_of_the_specification() -> None:
    rows = [[15, 15, 15, 0]] * 2
    assert fuse(BIG, SMALL) == [*rows, [15, 15, 5, 5], [15, 15, 5, 5]]
    assert fuse(SMALL, BIG) == fuse(BIG, SMALL)
    assert fuse(BIG, SMALL, order="score") == [*rows, [15, 15, 15, 5], [15, 15, 15, 5]]


def test_regions_of_one_size_are_painted_by_score_and_then_by_class() -> None:
    whole = region(*["####"] * 4)
    low, high = Instance(3, 0.4, whole), Instance(7, 0.6, whole)
    assert fuse(low, high) == fuse(high, low) == [[8] * 4] * 4
    equal = Instance(7, 0.4, whole)
    for order in ("area", "score"):
        assert fuse(low, equal, order=order) == fuse(equal, low, order=order) == [[4] * 4] * 4


def test_by_logit_each_pixel_goes_to_the_larger_product() -> None:
    whole = region(*["####"] * 4)
    left = np.array([[4.0, 3.0, 2.0, 1.0]] * 4)
    one = Instance(0, 0.5, whole, left)
    two = Instance(1, 0.5, region(*["####"] * 2, *["...."] * 2), left[:, ::-1])
    assert fuse(one, two, order="logit") == [[1, 1, 2, 2]] * 2 + [[1] * 4] * 2
    strong = Instance(1, 1.0, two.mask, left[:, ::-1])
    assert fuse(one, strong, order="logit")[0] == [1, 2, 2, 2]
    tie = Instance(1, 0.5, whole, left)
    assert fuse(tie, one, order="logit") == fuse(one, tie, order="logit") == [[1] * 4] * 4
    with pytest.raises(ValueError, match="logits"):
        fuse(BIG, order="logit")


def test_two_boxes_of_one_class_are_united() -> None:
    other = Instance(BOTTLE, 0.4, region("....", "...#", "...#", "...."))
    assert fuse(SMALL, other) == [[0] * 4, [0, 0, 0, 5], [0, 0, 5, 5], [0, 0, 5, 5]]


def test_without_instances_all_is_background_and_nothing_is_ignored() -> None:
    assert fuse() == [[0] * 4] * 4
    assert fuse(ignore_band=1, uncertain=0.9) == [[0] * 4] * 4


def test_a_band_around_every_border_is_ignored() -> None:
    mask = np.zeros((9, 12), bool)
    mask[:, 4:8] = True
    label = fuse_instances([Instance(2, 0.5, mask)], (9, 12), FuseSettings(ignore_band=1))
    assert label[0].tolist() == [0, 0, 0, 255, 255, 3, 3, 255, 255, 0, 0, 0]
    right = np.zeros((9, 12), bool)
    right[:, 8:] = True
    both = [Instance(2, 0.5, mask), Instance(2, 0.5, right)]  # a border within one class too
    label = fuse_instances(both, (9, 12), FuseSettings(ignore_band=1))
    assert label[0].tolist() == [0, 0, 0, 255, 255, 3, 3, 255, 255, 3, 3, 3]


def test_uncertain_instances_are_ignored_and_still_hide_what_is_below() -> None:
    assert fuse(BIG, SMALL, uncertain=0.6)[2:] == [[15, 15, 255, 255]] * 2
    assert fuse(BIG, SMALL, uncertain=0.5)[2:] == [[15, 15, 5, 5]] * 2


@given(st.integers(0, 2**30), st.integers(0, 6), st.sampled_from(["area", "score"]))
def test_painting_equals_a_slow_reference(seed: int, count: int, order: str) -> None:
    rng = np.random.default_rng(seed)
    drawn = [
        Instance(int(rng.integers(3)), float(rng.integers(1, 4)) / 4, rng.random((4, 4)) < 0.4)
        for _ in range(count)
    ]

    def wins(one: Instance) -> tuple[float, ...]:
        area = int(one.mask.sum())
        return (-area, one.score, -one.category) if order == "area" else (one.score, -one.category)

    slow = np.zeros((4, 4), int)
    for y in range(4):
        for x in range(4):
            here = [one for one in drawn if one.mask[y, x]]
            if here:
                slow[y, x] = max(here, key=wins).category + 1
    assert fuse(*drawn, order=order) == slow.tolist()
    assert set(np.unique(slow)) <= {0, *(one.category + 1 for one in drawn)}


def test_masks_of_another_size_and_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        fuse_instances([BIG], (5, 4), FuseSettings())
    with pytest.raises(ValueError, match="ORDER is 'size'"):
        FuseSettings(order="size")
    with pytest.raises(ValueError, match="negative"):
        FuseSettings(ignore_band=-1)


def test_flags_say_which_tags_have_no_object_and_which_have_no_pixel() -> None:
    label = np.array([[0, 3], [255, 0]], np.uint8)
    assert label_flags([1, 2, 4], [2, 4], label) == ("class_empty:2", "lost:5")
    assert label_flags([], [], np.zeros((2, 2), np.uint8)) == ("no_tags",)
    with pytest.raises(AssertionError, match="the tags are"):
        label_flags([1], [1], label)
