"""Tests of weaksam_d2.ops.fusion."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops import fuse_nms, fuse_weighted

PAIR = np.array([[0, 0, 10, 10], [0, 0, 12, 10]], dtype=np.float64)


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, dtype=np.int64)


@pytest.mark.parametrize(("detectors", "score"), [(2, 0.6), (3, 0.4), (1, 0.6)])
def test_two_boxes_of_one_object_become_their_weighted_mean(detectors: int, score: float) -> None:
    found = fuse_weighted(PAIR, np.array([0.8, 0.4]), zeros(2), detectors=detectors, iou=0.5)
    np.testing.assert_allclose(found.boxes, [[0, 0, 32 / 3, 10]])
    np.testing.assert_allclose(found.scores, [score])
    assert found.groups.tolist() == [0]


def test_a_box_alone_counts_less_and_groups_do_not_meet() -> None:
    found = fuse_weighted(
        PAIR, np.array([0.8, 0.4]), np.array([7, 3], dtype=np.int64), detectors=2, iou=0.5
    )
    assert found.groups.tolist() == [3, 7]
    np.testing.assert_allclose(found.scores, [0.2, 0.4])
    np.testing.assert_array_equal(found.boxes, PAIR[::-1])


def test_an_iou_that_equals_the_threshold_starts_a_new_box() -> None:
    halves = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], dtype=np.float64)
    assert len(fuse_weighted(halves, np.ones(2), zeros(2), detectors=2, iou=0.5).boxes) == 2
    assert len(fuse_nms(halves, np.ones(2), zeros(2), iou=0.5).boxes) == 2
    assert len(fuse_weighted(halves, np.ones(2), zeros(2), detectors=2, iou=0.49).boxes) == 1
    assert len(fuse_nms(halves, np.ones(2), zeros(2), iou=0.49).boxes) == 1


def test_scores_of_zero_keep_the_first_box() -> None:
    found = fuse_weighted(PAIR, np.zeros(2), zeros(2), detectors=2, iou=0.5)
    np.testing.assert_array_equal(found.boxes, PAIR[:1])
    assert found.scores.tolist() == [0]


def test_nothing_to_fuse() -> None:
    nothing = np.zeros((0, 4)), np.zeros(0), zeros(0)
    assert fuse_weighted(*nothing, detectors=2, iou=0.5).boxes.shape == (0, 4)
    assert fuse_nms(*nothing, iou=0.5).boxes.shape == (0, 4)


def test_negative_scores_and_no_detector_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 0, got -0\.1"):
        fuse_weighted(PAIR, np.array([0.5, -0.1]), zeros(2), detectors=2, iou=0.5)
    with pytest.raises(ValueError, match="detectors must be at least 1"):
        fuse_weighted(PAIR, np.ones(2), zeros(2), detectors=0, iou=0.5)


def iou_of(a: Any, b: Any) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    inter = width * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (areas - inter)


def slow_nms(boxes: np.ndarray, scores: np.ndarray, rows: list[int], iou: float) -> list[Any]:
    kept: list[int] = []
    for i in sorted(rows, key=lambda i: -scores[i]):
        if all(iou_of(boxes[i], boxes[k]) <= iou for k in kept):
            kept.append(i)
    return [(boxes[i].tolist(), scores[i]) for i in kept]


def slow_wbf(
    boxes: np.ndarray, scores: np.ndarray, rows: list[int], iou: float, detectors: int
) -> list[Any]:
    clusters: list[list[int]] = []
    fused: list[Any] = []
    for i in sorted(rows, key=lambda i: -scores[i]):
        overlaps = [iou_of(boxes[i], box) for box in fused]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] > iou:
            clusters[best].append(i)
        else:
            best = len(clusters)
            clusters.append([i])
            fused.append(boxes[i])
        total = sum(scores[k] for k in clusters[best])
        if len(clusters[best]) > 1 and total > 0:
            fused[best] = sum(scores[k] * boxes[k] for k in clusters[best]) / total
    return [
        (box.tolist(), sum(scores[k] for k in c) / len(c) * min(len(c), detectors) / detectors)
        for box, c in zip(fused, clusters, strict=True)
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 40),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([0.0, 0.3, 0.5, 0.55, 1.0]),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_both_fusions_equal_a_loop_over_boxes(
    count: int, groups: int, iou: float, detectors: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 8, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 9, (count, 2))], axis=1).astype(float)
    scores, keys = rng.integers(0, 9, count) / 8, rng.integers(0, groups, count)
    weighted = fuse_weighted(boxes, scores, keys, detectors=detectors, iou=iou)
    kept = fuse_nms(boxes, scores, keys, iou=iou)
    for group in range(groups):
        rows = np.flatnonzero(keys == group).tolist()
        for found, slow in (
            (weighted, slow_wbf(boxes, scores, rows, iou, detectors)),
            (kept, slow_nms(boxes, scores, rows, iou)),
        ):
            mine = found.groups == group
            assert mine.sum() == len(slow)
            if slow:
                np.testing.assert_allclose(found.boxes[mine], [b for b, _ in slow], rtol=1e-12)
                np.testing.assert_allclose(found.scores[mine], [s for _, s in slow], rtol=1e-12)
