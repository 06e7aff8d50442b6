"""Runs of masks against the decoded pixels, and both ways of counting overlaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weaksam_d2.projects.sepl.masks import (
    MaskSet,
    containment,
    count_dense,
    count_overlaps,
    decode_runs,
)

from weaksam_d2.artifacts import Proposals
from weaksam_d2.ops import encode_rle


def drawn(seed: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """Masks with long and short runs, an empty one and a full one among them."""
    rng = np.random.default_rng(seed)
    share = rng.random((count, 1, 1)) ** 2
    masks = rng.random((count, *size)) < share
    for mask in masks[::2]:
        top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
        mask[:] = False
        mask[top : top + int(rng.integers(1, 200)), left:] = True
    masks[0] = False
    masks[count // 2] = True
    return masks


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 40), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_runs_cover_exactly_the_pixels_of_each_mask(
    seed: int, count: int, height: int, width: int
) -> None:
    masks = drawn(seed, count, (height, width))
    runs = decode_runs(encode_rle(masks), (height, width))
    for mask, first, last in zip(masks, runs.offsets, runs.offsets[1:], strict=False):
        flat = np.zeros(height * width, bool)
        for start, stop in zip(runs.start[first:last], runs.stop[first:last], strict=True):
            assert start < stop or not mask.any()
            flat[start:stop] = True
        np.testing.assert_array_equal(flat.reshape(width, height).T, mask)
    np.testing.assert_array_equal(runs.areas(), masks.sum((1, 2)))


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 50), st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_overlaps_from_runs_and_from_pixels_agree(
    seed: int, count: int, height: int, width: int
) -> None:
    masks = drawn(seed, count, (height, width))
    label = np.random.default_rng(seed).choice([0, 1, 2, 7, 255], (height, width)).astype(np.uint8)
    runs = decode_runs(encode_rle(masks), (height, width))
    for ids in ([1, 2, 7], [255], []):
        ours, dense = count_overlaps(runs, label, ids), count_dense(masks, label, ids)
        np.testing.assert_array_equal(ours, dense)
        assert ours.shape == (count, len(ids))


def test_large_runs_keep_all_their_bits() -> None:
    masks = np.zeros((2, 3000, 2000), bool)
    masks[0, :, 1000:] = True  # runs of 3 million pixels: five characters
    masks[1, 5, 3] = True
    runs = decode_runs(encode_rle(masks), (3000, 2000))
    assert runs.areas().tolist() == [3_000_000, 1]
    assert runs.start.tolist() == [3_000_000, 9_005]


def test_no_masks_have_no_runs() -> None:
    runs = decode_runs((), (3, 4))
    assert runs.areas().tolist() == []
    assert count_overlaps(runs, np.zeros((3, 4), np.uint8), [1]).shape == (0, 1)
    assert containment(MaskSet((), (3, 4))).shape == (0, 0)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([b"44", b"45"], "mask 1 has 9 pixels in all, expected 2 x 4"),
        ([b"44", b"4d"], "no complete COCO run-length code"),  # d: the number goes on
        ([b"44", b""], "no complete COCO run-length code"),
        ([b" 4"], "no complete COCO run-length code"),
        ([b"4J7"], "mask 0 has"),  # a run of -6 pixels
    ],
)
def test_a_code_that_is_broken_or_of_another_size_is_named(
    counts: list[bytes], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_runs(counts, (2, 4))


def test_containment_is_a_share_of_the_row() -> None:
    masks = np.zeros((3, 4, 4), bool)
    masks[0, :2], masks[1, :, :2], masks[2] = True, True, True
    shares = containment(MaskSet(tuple(encode_rle(masks)), (4, 4)))
    np.testing.assert_allclose(shares, [[1, 0.5, 1], [0.5, 1, 1], [0.5, 0.5, 1]])


def test_masks_are_taken_from_proposals_and_must_be_there() -> None:
    masks = np.ones((2, 3, 4), bool)
    boxes, scores = np.tile([0, 0, 4, 3], (2, 1)), np.array([0.9, 0.8])
    codes = tuple(encode_rle(masks))
    found = MaskSet.of(Proposals(boxes, (3, 4), scores, masks=codes))
    assert (found.counts, found.size) == (codes, (3, 4))
    assert found.scores is scores
    assert len(MaskSet.of(Proposals(boxes[:0], (3, 4)))) == 0
    with pytest.raises(ValueError, match="2 boxes without masks"):
        MaskSet.of(Proposals(boxes, (3, 4)))
