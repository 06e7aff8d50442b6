"""The segment map (wsss.md, Sec. 6.2)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from weaksam_d2.projects.s2c import paint_segments, segment_map
from weaksam_d2.projects.s2c.segment_map import compact_ids

from weaksam_d2.artifacts import Proposals
from weaksam_d2.ops import encode_rle

EXAMPLE = np.array([[[1, 1, 1, 1]], [[1, 1, 0, 0]], [[0, 1, 1, 0]]], bool)
IOU = np.array([0.99, 0.90, 0.95], np.float32)


def paint(masks: np.ndarray, scores: np.ndarray | None = None, priority: str = "area") -> list:
    codes = encode_rle(masks)
    return paint_segments(codes, masks.shape[1:], scores=scores, priority=priority).tolist()


def test_the_smallest_segment_is_on_top_and_the_better_one_of_equal_area() -> None:
    assert paint(EXAMPLE, IOU) == [[2, 3, 3, 1]]


def test_the_released_rule_puts_the_highest_iou_on_top_and_the_rest_disappears() -> None:
    assert paint(EXAMPLE, IOU, "iou") == [[1, 1, 1, 1]]


def test_without_scores_the_better_rank_is_on_top() -> None:
    assert paint(EXAMPLE) == [[3, 3, 2, 1]]  # masks 1 and 2 tie, and 1 comes first in the store


def test_a_segment_that_smaller_ones_cover_leaves_no_gap() -> None:
    masks = np.array([[[1, 1, 1]], [[1, 1, 0]], [[1, 0, 0]], [[0, 1, 0]]], bool)
    assert paint(masks) == [[3, 2, 1]] or paint(masks) == [[2, 3, 1]]
    assert np.unique(paint(masks)).tolist() == [1, 2, 3]


def test_empty_masks_are_dropped_and_no_mask_gives_zeros() -> None:
    empty = np.zeros((2, 2, 3), bool)
    assert paint(empty) == np.zeros((2, 3)).tolist()
    assert paint(empty[:0]) == np.zeros((2, 3)).tolist()
    one = np.array([[[0, 0]], [[0, 1]]], bool)
    assert paint(one) == [[0, 1]]


def test_more_than_255_segments_keep_their_ids() -> None:
    masks = np.eye(300, dtype=bool).reshape(300, 15, 20)
    found = paint_segments(encode_rle(masks), (15, 20))
    assert found.dtype == np.uint16
    assert sorted(found.ravel().tolist()) == list(range(1, 301))


def test_ids_after_a_crop_have_no_gap_and_zero_stays() -> None:
    ids = np.array([[3, 0], [7, 3]], np.uint16)
    assert compact_ids(ids).tolist() == [[1, 0], [2, 1]]
    assert compact_ids(np.array([[5]], np.uint16)).tolist() == [[1]]  # no real segment becomes 0
    assert compact_ids(np.zeros((1, 2), np.uint16)).tolist() == [[0, 0]]


def slow_map(masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Each pixel: the mask of smallest area, then highest score, then best rank."""
    best = np.full(masks.shape[1:], -1)
    for row, column in np.ndindex(*best.shape):
        inside = np.flatnonzero(masks[:, row, column])
        if len(inside):
            keys = [(masks[i].sum(), -scores[i], i) for i in inside]
            best[row, column] = inside[keys.index(min(keys))]
    return best


@settings(max_examples=30, deadline=None)
@given(
    masks=hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5))),
    seed=st.integers(0, 9),
)
def test_each_pixel_belongs_to_its_smallest_segment(masks: np.ndarray, seed: int) -> None:
    scores = np.random.default_rng(seed).choice([0.5, 0.8], len(masks)).astype(np.float32)
    found = np.array(paint(masks, scores))
    expected = slow_map(masks, scores)
    assert ((found == 0) == (expected == -1)).all()
    # The same partition, whatever the numbers; ids are 0 .. N without gaps.
    pairs = set(zip(found.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    seen = np.unique(found[found > 0])
    assert seen.tolist() == list(range(1, len(seen) + 1))


def test_bad_settings_and_stores_without_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="SE_PRIORITY is 'size', allowed: area, iou"):
        paint(EXAMPLE, IOU, "size")
    with pytest.raises(ValueError, match="needs the predicted IoU"):
        paint(EXAMPLE, None, "iou")
    boxes = np.array([[0, 0, 1, 1]], np.float32)
    with pytest.raises(ValueError, match="have no masks"):
        segment_map(Proposals(boxes, (2, 2)))
    assert segment_map(Proposals(boxes[:0], (2, 2))).tolist() == [[0, 0], [0, 0]]
