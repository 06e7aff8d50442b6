"""SEPL on the worked example and the edge cases of the specification, and what always holds."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weaksam_d2.projects.sepl import PAPER, REFERENCE, MaskSet, SEPLSettings, enhance_labels
from weaksam_d2.projects.sepl.choose import choose_masks

from weaksam_d2.ops import encode_rle

SEED = np.array([[1, 1, 0, 2], [1, 0, 0, 2], [0, 0, 0, 0], [2, 0, 0, 0]], np.uint8)
MASKS = np.zeros((5, 4, 4), bool)
MASKS[0, :2, :2] = MASKS[1, :2, 2:] = MASKS[2, 2:, 2:] = MASKS[3] = MASKS[4, 3, :2] = True
TREE = replace(PAPER, select="tree")
BOTH = pytest.mark.parametrize("base", [PAPER, REFERENCE], ids=["paper", "reference"])


def mask_set(masks: Any, scores: Any = None) -> MaskSet:
    masks = np.asarray(masks, bool)
    return MaskSet(tuple(encode_rle(masks)), masks.shape[1:], scores)


def none(size: tuple[int, int]) -> MaskSet:
    return MaskSet((), size)


def enhance(label: Any, masks: Any, setting: SEPLSettings = PAPER, **more: Any) -> Any:
    given_masks = masks if isinstance(masks, MaskSet) else mask_set(masks)
    label = np.asarray(label, np.uint8)
    before = label.copy()
    result, flags = enhance_labels(label, given_masks, settings=setting, **more)
    np.testing.assert_array_equal(label, before)  # the input is never written to
    assert result.dtype == np.uint8 and result.flags.c_contiguous
    return result.tolist(), flags


ONES = np.ones((4, 4), int)
WITHOUT_S3 = [[1, 1, 0, 2], [1, 1, 0, 2], [0, 0, 0, 0], [2, 0, 0, 0]]


@pytest.mark.parametrize(
    ("setting", "masks", "expected", "flags"),
    [
        (PAPER, MASKS, np.where(SEED == 2, 2, ONES).tolist(), ("fallback:2",)),
        (REFERENCE, MASKS, ONES.tolist(), ("lost:2",)),
        (TREE, MASKS, WITHOUT_S3, ("fallback:2",)),
        (PAPER, MASKS[[0, 1, 2, 4]], WITHOUT_S3, ("fallback:2",)),
        (
            *(REFERENCE, MASKS[[0, 1, 2, 4]]),
            *([[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4], ("lost:2",)),
        ),
    ],
)
def test_the_worked_example(setting: SEPLSettings, masks: Any, expected: Any, flags: Any) -> None:
    assert enhance(SEED, masks, setting) == (expected, flags)


def test_the_worked_example_counts_and_owners() -> None:
    choice = choose_masks(SEED, mask_set(MASKS), PAPER)
    assert choice.classes.tolist() == [1, 2] and choice.pixels.tolist() == [3, 3]
    assert choice.areas.tolist() == [4, 4, 4, 16, 2]
    assert choice.owner.tolist() == [1, 0, 0, 1, 0]
    assert choose_masks(SEED, mask_set(MASKS), REFERENCE).owner.tolist() == [1, 0, 0, 1, 0]
    assert choose_masks(SEED, mask_set(MASKS), TREE).owner.tolist() == [1, 0, 0, 0, 0]


def test_a_share_exactly_at_its_threshold() -> None:
    half = np.zeros((1, 10), np.uint8)
    half[0, :9] = 1
    mask = np.zeros((1, 1, 10), bool)
    mask[0, 0, 8:] = True  # a = 2, I = 1, n = 9
    for setting in (PAPER, REFERENCE):
        assert not choose_masks(half, mask_set(mask), setting).owner.any()
    seed = np.zeros((1, 200), np.uint8)
    seed[0, :20] = 1
    mask = np.zeros((1, 1, 200), bool)
    mask[0, 0, 3:103] = True  # I / n = 17 / 20, a = 100
    assert choose_masks(seed, mask_set(mask), PAPER).owner.tolist() == [0]
    assert choose_masks(seed, mask_set(mask), REFERENCE).owner.tolist() == [1]


@BOTH
def test_a_seed_without_a_class_has_nothing_to_enhance(base: SEPLSettings) -> None:
    assert enhance(np.zeros((4, 4)), MASKS, base) == (np.zeros((4, 4)).tolist(), ("no_tags",))
    everything = np.full((4, 4), 255 if base is PAPER else 0).tolist()
    assert enhance(np.full((4, 4), 255), MASKS, base) == (everything, ("no_tags",))


@BOTH
def test_without_masks_the_seed_stays(base: SEPLSettings) -> None:
    seed = SEED.copy()
    seed[2] = 255
    expected = np.where(seed == 255, 0, seed) if base is REFERENCE else seed
    assert enhance(seed, none((4, 4)), base) == (expected.tolist(), ("no_masks",))


@BOTH
def test_empty_masks_and_masks_outside_every_class_change_nothing(base: SEPLSettings) -> None:
    useless = np.zeros((2, 4, 4), bool)
    useless[1, 2, 1:] = True
    assert enhance(SEED, useless, base) == (
        SEED.tolist(),
        ("fallback:1", "fallback:2"),
    )
    assert enhance(SEED, [*MASKS, *useless], base) == enhance(SEED, MASKS, base)


@BOTH
def test_a_mask_given_twice_counts_once(base: SEPLSettings) -> None:
    for masks in (MASKS, MASKS[[0, 1, 2, 4]]):
        assert enhance(SEED, [*masks, *masks], base) == enhance(SEED, masks, base)


@BOTH
def test_masks_of_one_class_become_their_union(base: SEPLSettings) -> None:
    seed = [[1, 1, 1, 1, 0, 0]]
    masks = np.array([[[1, 1, 1, 0, 0, 0]], [[0, 0, 1, 1, 1, 0]]])
    assert enhance(seed, masks, base) == ([[1, 1, 1, 1, 1, 0]], ())


def test_where_two_classes_overlap_the_smaller_mask_or_the_higher_class_lies_on_top() -> None:
    seed = [[1, 1, 2, 2, 2, 2]]
    masks = np.array([[[1, 1, 1, 0, 0, 0]], [[0, 1, 1, 1, 1, 1]]])
    assert enhance(seed, masks, PAPER) == ([[1, 1, 1, 2, 2, 2]], ())
    assert enhance(seed, masks, REFERENCE) == ([[1, 2, 2, 2, 2, 2]], ())


def test_at_equal_area_the_better_mask_then_the_lower_class_lies_on_top() -> None:
    seed = [[1, 1, 2, 2, 2]]
    masks = np.array([[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1]]])
    for scores, middle in (([0.9, 0.8], 1), ([0.8, 0.9], 2), ([0.9, 0.9], 1), (None, 1)):
        found = enhance(seed, mask_set(masks, None if scores is None else np.array(scores)))
        assert found == ([[1, 1, middle, 2, 2]], ())
    assert enhance(seed, mask_set(masks, np.array([np.nan, 0.1])))[0] == [[1, 1, 2, 2, 2]]


@BOTH
def test_a_mask_of_the_whole_image_floods_it_for_the_only_class(base: SEPLSettings) -> None:
    assert enhance(np.where(SEED == 1, 1, 0), np.ones((1, 4, 4)), base) == (ONES.tolist(), ())


def test_a_mask_of_the_whole_image_goes_to_one_of_two_classes() -> None:
    seed = SEED.copy()
    seed[3, 3] = 2  # class 2 has four pixels now, class 1 three
    whole = np.ones((1, 4, 4), bool)
    assert enhance(seed, whole) == (np.where(seed == 1, 1, 2).tolist(), ("fallback:1",))
    assert enhance(SEED, whole) == (np.where(SEED == 2, 2, 1).tolist(), ("fallback:2",))
    # The lower class takes it, and no free mask is left to cover what the higher one has.
    left = np.where(seed == 2, 2, 1).tolist()
    assert enhance(seed, whole, REFERENCE) == (left, ("fallback:2",))
    off = replace(PAPER, max_mask_fraction=0.99)
    assert enhance(seed, whole, off) == (seed.tolist(), ("fallback:1", "fallback:2"))
    off = replace(REFERENCE, max_mask_fraction=0.99)  # nor does it cover what is left of a seed
    assert enhance(SEED, MASKS, off) == enhance(SEED, MASKS[[0, 1, 2, 4]], REFERENCE)


@BOTH
def test_a_class_of_one_pixel_floods_a_mask_unless_it_is_too_small(base: SEPLSettings) -> None:
    seed = np.zeros((40, 30), np.uint8)
    seed[20, 15] = 3
    mask = np.zeros((1, 40, 30), bool)
    mask[0, :, :25] = True
    assert np.sum(enhance(seed, mask, base)[0]) == 3 * 1000
    guarded = replace(base, min_class_pixels=2)
    left = seed if base is PAPER else np.zeros_like(seed)
    assert enhance(seed, mask, guarded)[0] == left.tolist()
    assert enhance(seed, mask, replace(base, min_class_pixels=1)) == enhance(seed, mask, base)


def test_an_unknown_pixel_stays_unknown_unless_a_region_covers_it() -> None:
    seed = [[1, 1, 1, 255, 255]]
    masks = np.array([[[1, 1, 1, 1, 0]]])
    assert enhance(seed, masks)[0] == [[1, 1, 1, 1, 255]]
    assert enhance(seed, masks, replace(PAPER, ignore="background"))[0] == [[1, 1, 1, 1, 0]]
    # It belongs to no class, but to the mask: 2 of 5 pixels, and 2 of 3 of the class.
    masks = np.array([[[0, 1, 1, 1, 1]]])
    assert enhance(seed, masks)[1] == ("fallback:1",)


def test_a_class_that_is_painted_over_is_reported() -> None:
    seed = [[1, 1, 2, 2, 2]]
    masks = np.array([[[1, 1, 0, 0, 0]], [[1, 1, 1, 1, 1]]])
    assert enhance(seed, masks, replace(PAPER, conflict="class_id")) == (
        [[2] * 5],
        ("lost:1",),
    )
    assert enhance(seed, masks, PAPER) == ([[1, 1, 2, 2, 2]], ())


def test_a_class_that_the_image_does_not_have_counts_as_background() -> None:
    result, flags = enhance(SEED, MASKS, tags=[1])  # class 1 has the label 2
    assert flags[0] == "untagged:1" and not np.any(np.equal(result, 1))
    assert enhance(SEED, MASKS, tags=[])[1] == ("untagged:1", "untagged:2", "no_tags")
    assert enhance(SEED, none((4, 4)), tags=[0]) == (
        np.where(SEED == 1, 1, 0).tolist(),
        ("untagged:2", "no_masks"),
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"masks are 4 x 4 .* the label 2 x 8"):
        enhance(SEED.reshape(2, 8), MASKS)
    with pytest.raises(ValueError, match="the label holds 2, expected 0 to 1 or 255"):
        enhance(SEED, MASKS, num_labels=2)
    assert enhance(SEED, MASKS, num_labels=3) == enhance(SEED, MASKS)
    with pytest.raises(ValueError, match=r"uint8 \(H, W\), got int64"):
        enhance_labels(SEED.astype(np.int64), mask_set(MASKS), settings=PAPER)


def test_settings_say_what_they_are_and_refuse_what_is_not_allowed() -> None:
    assert PAPER.base == replace(PAPER, start="cam").base == "paper"
    assert REFERENCE.base == replace(REFERENCE, start="cam").base == "reference"
    assert replace(PAPER, t2=0.9).base == TREE.base == "custom"
    with pytest.raises(ValueError, match=r"SEPL.SELECT is one of .*'threshold', 'tree'.*'best'"):
        SEPLSettings(select="best")
    with pytest.raises(ValueError, match=r"SEPL.T2 is a share in \[0, 1\], got 85"):
        SEPLSettings(t2=85)
    with pytest.raises(ValueError, match="SEPL.MIN_CLASS_PIXELS is a number of pixels, got -1"):
        SEPLSettings(min_class_pixels=-1)


def pictures() -> Any:
    """A seed with some of the classes 1, 2, 5 and 255, and up to seven masks."""

    def draw(seed: int, height: int, width: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        label = rng.choice([0, 0, 1, 1, 2, 5, 255], (height, width)).astype(np.uint8)
        return label, rng.random((count, height, width)) < rng.random((count, 1, 1))

    side = st.integers(1, 7)
    return st.builds(draw, st.integers(0, 10**6), side, side, st.integers(0, 7))


SETTINGS = st.sampled_from([PAPER, REFERENCE, TREE, replace(REFERENCE, select="tree")])


@given(pictures(), SETTINGS)
@settings(max_examples=80, deadline=None)
def test_no_class_appears_that_the_seed_does_not_have(picture: Any, setting: Any) -> None:
    label, masks = picture
    result, flags = enhance(label, masks, setting)
    assert set(np.unique(result)) <= {0, *np.unique(label)}
    lost = {int(flag[5:]) for flag in flags if flag.startswith("lost:")}
    assert lost == set(np.unique(label).tolist()) - {0, 255} - set(np.unique(result).tolist())


@given(pictures())
@settings(max_examples=40, deadline=None)
def test_without_masks_it_is_the_identity(picture: Any) -> None:
    label, _ = picture
    assert enhance(label, none(label.shape))[0] == label.tolist()


@given(pictures(), SETTINGS, st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_the_order_of_masks_of_distinct_areas_means_nothing(
    picture: Any, setting: Any, seed: int
) -> None:
    label, masks = picture
    _, distinct = np.unique(masks.sum((1, 2)), return_index=True)
    masks = masks[np.sort(distinct)]
    mixed = np.random.default_rng(seed).permutation(len(masks))
    assert enhance(label, masks, setting) == enhance(label, masks[mixed], setting)
