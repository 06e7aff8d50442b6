"""Each reason for which SEPL makes a label worse, on drawings that have it."""

from typing import Any

import numpy as np
import pytest
from weaksam_d2.projects.sepl import PAPER, MaskSet, enhance_labels
from weaksam_d2.projects.sepl.failures import LabelFall, find_falls, worst_images

from weaksam_d2.ops import encode_rle

SIZE = (20, 20)


def block(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def falls(truth: Any, seed: Any, *masks: np.ndarray, after: Any = None) -> list[LabelFall]:
    truth, seed = np.asarray(truth, np.uint8), np.asarray(seed, np.uint8)
    stored = MaskSet(tuple(encode_rle(np.stack(masks))), SIZE)
    if after is None:
        after, _ = enhance_labels(seed, stored, settings=PAPER)
    return find_falls("a", truth, seed, after, stored, PAPER)


OBJECT = block(4, 4, 10, 10)


def test_a_seed_that_misses_the_object_is_wrong() -> None:
    seed = block(4, 4, 1, 9) | block(16, 0, 2, 4)  # 9 of 100 pixels of the object
    assert [f.kind for f in falls(OBJECT, seed, block(14, 0, 6, 14), after=block(16, 0, 4, 4))] == [
        "wrong_seed"
    ]


def test_a_seed_that_lies_off_the_object_is_wrong() -> None:
    seed = block(10, 4, 10, 10)  # 40 on the object, 60 off it
    found = falls(OBJECT, seed, block(14, 0, 6, 15))
    assert [(f.kind, f.label) for f in found] == [("wrong_seed", 1)]


def test_a_mask_around_the_object_envelops_it() -> None:
    found = falls(OBJECT, OBJECT, np.ones(SIZE, bool), OBJECT)
    assert [f.kind for f in found] == ["enveloping_mask"]
    assert found[0].before == 1.0 and found[0].after == pytest.approx(0.25)
    assert found[0].fall == pytest.approx(0.75)


def test_an_object_that_has_no_mask_of_its_own_is_named() -> None:
    # The only mask is kept (all of it lies on the class) and is far too small.
    found = falls(OBJECT, OBJECT, block(4, 4, 4, 5))
    assert [f.kind for f in found] == ["missing_or_merged_mask"]


def test_a_fall_of_another_reason_is_other() -> None:
    # One of two objects has its mask; the other is lost with the seed.
    both = block(1, 1, 6, 6) | block(12, 12, 6, 6)
    assert [f.kind for f in falls(both, both, block(1, 1, 6, 6))] == ["other"]


def test_only_falls_of_more_than_a_point_count_and_only_of_classes_that_are_there() -> None:
    truth = np.where(OBJECT, 1, 0)
    assert falls(truth, truth, OBJECT) == []
    assert falls(truth, np.zeros(SIZE), OBJECT) == []  # an IoU of 0 cannot fall
    nearly = truth.copy()
    nearly[4, 4] = 0
    assert falls(truth, truth, OBJECT, after=nearly) == []  # one of 100 pixels is a point
    nearly[4, 5] = 0
    assert len(falls(truth, truth, OBJECT, after=nearly)) == 1


def test_pixels_of_unknown_truth_count_nowhere() -> None:
    truth = np.where(OBJECT, 1, 255)
    assert falls(truth, np.where(OBJECT, 1, 0), np.ones(SIZE, bool)) == []
    # A mask whose known pixels all lie on the object does not envelop it.
    small = np.where(block(4, 4, 5, 10), 1, 0)
    found = falls(truth, np.where(OBJECT, 1, 0), np.ones(SIZE, bool), after=small)
    assert [f.kind for f in found] == ["other"]


def test_the_worst_images_come_first_and_once() -> None:
    rows = [("b", 0.9, 0.5), ("a", 0.9, 0.1), ("b", 0.9, 0.2), ("c", 0.5, 0.1)]
    listed = [LabelFall(image, 1, "other", before, after) for image, before, after in rows]
    assert worst_images(listed) == ["a", "b", "c"]
    assert worst_images(listed, 1) == ["a"]


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="image 'a': truth, labels and masks have sizes"):
        falls(np.zeros((3, 3)), OBJECT, OBJECT, after=OBJECT)
