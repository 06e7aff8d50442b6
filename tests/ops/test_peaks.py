"""Tests of weaksam_d2.ops.peaks."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from weaksam_d2.ops import cluster_members, cluster_points, find_peaks, grid_points, normalize_map


def example_map() -> np.ndarray:
    cam = np.zeros((6, 6), np.float32)
    cam[1, 1] = cam[2, 2] = 1.0
    cam[4, 4], cam[5, 0] = 0.95, 0.5
    return cam


def one_of_each_plateau(found: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    """Of candidates (-value, y, x) that touch, at a corner too, the first in row-major order."""
    left, kept = sorted(found, key=lambda c: c[1:]), []
    while left:
        kept.append(left[0])
        plateau, new = [], [left.pop(0)]
        while new:
            plateau += new
            new = [
                c for c in left if any(max(abs(c[1] - y), abs(c[2] - x)) <= 1 for _, y, x in new)
            ]
            left = [c for c in left if c not in new]
    return kept


def slow_peaks(
    cam: np.ndarray, k: int, t: float, cap: int, metric: str, plateau: str = "all"
) -> list[tuple[int, int]]:
    r = (k if k % 2 else k + 1) // 2
    found = []
    for y, x in np.ndindex(*cam.shape):
        around = cam[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        if cam[y, x] >= t and cam[y, x] == around.max():
            found.append((-cam[y, x], y, x))
    found = one_of_each_plateau(found) if plateau == "first" else found
    kept: list[tuple[int, int]] = []
    for _, y, x in sorted(found)[: cap or None]:
        if metric == "l1":
            near = [abs(x - u) + abs(y - v) < (k - 1) // 2 for u, v in kept]
        else:
            near = [math.dist((x, y), q) <= k / 2 for q in kept]
        if not any(near):
            kept.append((x, y))
    return kept


def test_both_distance_rules_by_hand() -> None:
    xy, score = find_peaks(example_map(), kernel_size=3)
    assert xy.tolist() == [[1, 1], [2, 2], [4, 4]]
    np.testing.assert_allclose(score, [1, 1, 0.95])
    xy, _ = find_peaks(example_map(), kernel_size=3, metric="l2")
    assert xy.tolist() == [[1, 1], [4, 4]]


@pytest.mark.parametrize("metric", ["l1", "l2"])
@pytest.mark.parametrize("kernel_size", [2, 3, 5, 6, 9, 129])
@pytest.mark.parametrize("topk", [0, 4])
def test_peaks_equal_the_slow_rule(metric: str, kernel_size: int, topk: int) -> None:
    rng = np.random.default_rng(kernel_size)
    for shape in ((12, 15), (20, 7), (1, 9)):
        cam = rng.integers(0, 11, size=shape).astype(np.float32) / 10  # with many ties
        xy, score = find_peaks(
            cam, kernel_size=kernel_size, threshold=0.5, topk=topk, metric=metric
        )
        assert [tuple(p) for p in xy.tolist()] == slow_peaks(cam, kernel_size, 0.5, topk, metric)
        assert score.tolist() == [cam[int(y), int(x)] for x, y in xy]
        assert xy.dtype == score.dtype == np.float32


@settings(max_examples=150, deadline=None)
@given(
    cam=st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
        lambda shape: arrays(np.int8, shape, elements=st.integers(0, 4))
    ),
    kernel_size=st.integers(2, 30),  # odd and even, up to more than the whole map
    threshold=st.sampled_from([0.25, 0.9, 1.0]),
    topk=st.integers(0, 6),
    metric=st.sampled_from(["l1", "l2"]),
    plateau=st.sampled_from(["all", "first"]),
)
def test_peaks_equal_the_slow_rule_on_any_map(
    cam: np.ndarray, kernel_size: int, threshold: float, topk: int, metric: str, plateau: str
) -> None:
    cam = cam.astype(np.float32) / 4
    xy, _ = find_peaks(
        cam,
        kernel_size=kernel_size,
        threshold=threshold,
        topk=topk,
        metric=metric,
        plateau=plateau,
    )
    expected = slow_peaks(cam, kernel_size, threshold, topk, metric, plateau)
    assert [tuple(p) for p in xy.tolist()] == expected


def test_the_papers_kernel_suppresses_up_to_64_pixels_in_a_window_of_129() -> None:
    cam = np.zeros((1, 400), np.float32)
    options = {"kernel_size": 128, "metric": "l2", "topk": 0}
    for distance, found in ((63, 1), (64, 1), (65, 2)):
        cam[:] = 0
        cam[0, 100] = cam[0, 100 + distance] = 1
        assert len(find_peaks(cam, **options)[0]) == found
        cam[0, 100] = 0.95  # no maximum of its window if the other lies within 64 pixels
        assert len(find_peaks(cam, **options)[0]) == found


def test_a_value_at_the_threshold_is_a_peak() -> None:
    cam = np.zeros((3, 3), np.float32)
    cam[1, 1] = 0.9
    assert len(find_peaks(cam)[0]) == 1
    assert len(find_peaks(cam, threshold=0.91)[0]) == 0


def test_a_plateau_fills_the_cap_or_counts_once() -> None:
    cam = np.zeros((12, 40), np.float32)
    cam[0, :30] = 1.0  # 30 pixels before the second peak, in row-major order
    cam[11, 39] = 1.0
    cam[10, 38] = 1.0  # touches it at a corner
    xy, _ = find_peaks(cam, kernel_size=3)
    assert xy[:, 1].max() == 0
    assert len(xy) == 25
    xy, _ = find_peaks(cam, kernel_size=3, plateau="first")
    assert xy.tolist() == [[0, 0], [38, 10]]


def test_paper_kernel_is_even_and_larger_than_the_image() -> None:
    cam = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    xy, _ = find_peaks(cam, kernel_size=128, metric="l2", threshold=0.5)
    y, x = np.unravel_index(cam.argmax(), cam.shape)
    assert xy.tolist() == [[x, y]]


def test_constant_broken_and_one_pixel_maps_have_no_peaks() -> None:
    for cam in (np.zeros((5, 5)), np.full((5, 5), np.nan), np.array([[np.nan, 1.0]])):
        xy, score = find_peaks(cam.astype(np.float32))
        assert xy.shape == (0, 2)
        assert score.shape == (0,)
    one = normalize_map(torch.ones(1, 1)).numpy()
    assert len(find_peaks(one)[0]) == 0


def test_half_precision_maps_are_read() -> None:
    assert len(find_peaks(example_map().astype(np.float16), kernel_size=3)[0]) == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metric": "l3"}, "l3"),
        ({"plateau": "last"}, "last"),
        ({"kernel_size": 1}, "got 1"),
        ({"threshold": 0.0}, "got 0.0"),
    ],
)
def test_bad_options_are_refused(options: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        find_peaks(example_map(), **options)


def test_a_map_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="H, W"):
        find_peaks(np.zeros((0, 0), np.float32))


def test_two_groups_give_two_centers() -> None:
    xy = np.array([[10, 10]] * 5 + [[50, 50]] * 5, np.float32)
    centers = cluster_points(xy)
    assert sorted(centers.tolist()) == [[10, 10], [50, 50]]
    assert centers.dtype == np.float32


def test_few_points_give_their_mean_and_one_point_itself() -> None:
    np.testing.assert_allclose(cluster_points(np.array([[0.0, 0], [3, 6], [6, 0]])), [[3, 2]])
    assert cluster_points(np.array([[4.0, 7.0]])).tolist() == [[4, 7]]


def test_no_points_broken_points_and_identical_points() -> None:
    assert cluster_points(np.zeros((0, 2))).shape == (0, 2)
    assert cluster_points(np.array([[np.nan, 1.0]])).shape == (0, 2)
    assert cluster_points(np.full((50, 2), 3.0)).tolist() == [[3, 3]]


def test_clusters_are_a_fixed_point_of_lloyd_and_ignore_the_order() -> None:
    rng = np.random.default_rng(0)
    xy = rng.integers(0, 200, size=(120, 2)).astype(np.float32)
    centers = cluster_points(xy)
    assert len(centers) == 24
    owner = ((xy[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
    for i, center in enumerate(centers):
        np.testing.assert_allclose(center, xy[owner == i].mean(0), atol=1e-3)
    np.testing.assert_array_equal(cluster_points(xy[rng.permutation(120)]), centers)


def test_each_point_is_told_its_center() -> None:
    rng = np.random.default_rng(3)
    xy = rng.integers(0, 60, size=(150, 2)).astype(np.float32)  # some of them equal
    xy[[5, 40]] = np.nan, np.inf
    centers, owner = cluster_members(xy)
    np.testing.assert_array_equal(centers, cluster_points(xy))
    assert owner.dtype == np.int64 and (owner[[5, 40]] == -1).all()
    for i, center in enumerate(centers):
        assert (owner == i).any()
        np.testing.assert_allclose(center, xy[owner == i].mean(0), atol=1e-3)
    assert len(np.unique(np.column_stack([xy, owner])[owner >= 0], axis=0)) == len(
        np.unique(xy[owner >= 0], axis=0)
    )
    assert cluster_members(np.zeros((0, 2)))[1].shape == (0,)


def test_points_outside_the_sample_go_to_the_nearest_center() -> None:
    xy = np.random.default_rng(2).random((100, 2)) * 100
    centers, owner = cluster_members(xy, max_points=40)
    nearest = ((xy[:, None] - centers[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(owner, nearest)


def test_far_groups_are_all_found() -> None:
    rng = np.random.default_rng(1)
    middles = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000]])
    xy = np.concatenate([m + rng.normal(size=(5, 2)) for m in middles])
    centers = cluster_points(xy)
    expected = np.array([xy[5 * i : 5 * i + 5].mean(0) for i in range(4)])
    found = centers[((expected[:, None] - centers[None]) ** 2).sum(-1).argmin(1)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_too_many_points_are_sampled(caplog: pytest.LogCaptureFixture) -> None:
    xy = np.random.default_rng(2).random((100, 2)) * 100
    with caplog.at_level(logging.WARNING):
        centers = cluster_points(xy, max_points=40)
    assert len(centers) == 8
    assert "40 of 100" in caplog.text
    np.testing.assert_array_equal(cluster_points(xy[::-1], max_points=40), centers)
    assert not np.array_equal(cluster_points(xy, max_points=40, seed=1), centers)


def test_a_divisor_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="divisor"):
        cluster_points(np.zeros((3, 2)), divisor=0)


def test_grid_points_are_cell_centers() -> None:
    assert grid_points(2, 4, 2).tolist() == [[1, 0.5], [3, 0.5], [1, 1.5], [3, 1.5]]
    grid = grid_points(32, 64, 32)
    assert grid.shape == (1024, 2)
    assert grid[0].tolist() == [1.0, 0.5]
    assert grid[-1].tolist() == [63.0, 31.5]
    with pytest.raises(ValueError, match="positive"):
        grid_points(4, 4, 0)
