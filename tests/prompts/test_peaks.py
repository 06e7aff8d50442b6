"""Prompt sources: the grid, peaks of CAMs, joint prompts, clusters of cross-attention peaks."""

import logging
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import CamMaps, Prompts
from weaksam_d2.prompts import CoarseCAMPeaks, CrossAttentionPeaks, FineCAMPeaks, Grid
from weaksam_d2.prompts.peaks import PeakSettings

RECORD = {"image_id": "a", "height": 40, "width": 60}


def _map(*peaks: tuple[int, int, float], size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """A map at image resolution, so that nothing is interpolated; peaks are (x, y, value)."""
    cam = np.zeros(size, np.float32)
    for x, y, value in peaks:
        cam[y, x] = value
    return cam


def _cams(classes: list[int], maps: list[np.ndarray], **kinds: Any) -> CamMaps:
    size = (40, 60) if not maps else maps[0].shape
    stack = np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32)
    return CamMaps(image_size=size, classes=np.array(classes, np.int64), coarse=(stack,), **kinds)


def _points(prompts: Prompts) -> list[list[tuple[float, float]]]:
    """For each prompt the list of its points."""
    ends = zip(prompts.offsets[:-1], prompts.offsets[1:], strict=True)
    return [[(float(x), float(y)) for x, y in prompts.points[a:b]] for a, b in ends]


def test_the_grid_is_that_of_the_specification() -> None:
    prompts = Grid(points_per_side=2)({"height": 2, "width": 4}, None)
    assert _points(prompts) == [[(1, 0.5)], [(3, 0.5)], [(1, 1.5)], [(3, 1.5)]]
    assert prompts.classes.tolist() == [-1] * 4 and prompts.source_names == ("Grid",)
    with pytest.raises(ValueError, match="POINTS_PER_SIDE is 0"):
        Grid(points_per_side=0)


def test_a_class_of_one_peak_has_no_joint_prompt() -> None:
    # weaksam.md, Appendix D, example 4: class 3 with two peaks, class 7 with one.
    cams = _cams([3, 7], [_map((5, 5, 0.95), (40, 30, 1.0)), _map((20, 20, 2.0))])
    prompts = CoarseCAMPeaks(settings=PeakSettings(joint=True))(RECORD, cams)
    assert _points(prompts) == [[(40, 30)], [(5, 5)], [(20, 20)], [(40, 30), (5, 5)]]
    assert prompts.classes.tolist() == [3, 3, 7, 3]
    np.testing.assert_allclose(prompts.scores, [1, 0.95, 1, 1], atol=1e-6)


def test_three_peaks_of_one_class_give_four_prompts() -> None:
    # weaksam.md, Sec. 4.3, example (d).
    cams = _cams([0], [_map((5, 5, 1.0), (50, 5, 0.97), (30, 35, 0.92))])
    source = CoarseCAMPeaks(settings=PeakSettings(joint=True))
    assert [len(points) for points in _points(source(RECORD, cams))] == [1, 1, 1, 3]
    alone = CoarseCAMPeaks(settings=PeakSettings(joint=False))(RECORD, cams)
    assert [len(points) for points in _points(alone)] == [1, 1, 1]


def test_scales_are_added_before_peaks_are_sought() -> None:
    # Alone each scale has its maximum at its own place; together the common one wins.
    first = _map((5, 5, 1.0), (40, 20, 0.8))[None]
    second = _map((40, 20, 0.8), (5, 35, 1.0))[None]
    cams = CamMaps(image_size=(40, 60), classes=np.array([1]), coarse=(first, second))
    prompts = CoarseCAMPeaks(settings=PeakSettings())(RECORD, cams)
    assert _points(prompts) == [[(40, 20)]]


def test_a_small_map_is_brought_to_the_size_of_the_image() -> None:
    cam = np.zeros((1, 4, 6), np.float32)
    cam[0, 1, 4] = 1.0  # its center lies at x 45, y 15
    cams = CamMaps(image_size=(40, 60), classes=np.array([1]), coarse=(cam,))
    (point,), *_ = _points(CoarseCAMPeaks(settings=PeakSettings())(RECORD, cams))
    assert abs(point[0] - 45) <= 1 and abs(point[1] - 15) <= 1


@pytest.mark.parametrize("maps", [[], [_map()], [np.full((40, 60), np.nan, np.float32)]])
def test_nothing_to_see_gives_no_prompts(maps: list[np.ndarray]) -> None:
    cams = _cams(list(range(len(maps))), maps)
    assert len(CoarseCAMPeaks(settings=PeakSettings(joint=True))(RECORD, cams)) == 0


def test_absent_maps_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    source = FineCAMPeaks(settings=PeakSettings())
    with caplog.at_level(logging.INFO):
        for cams in (None, _cams([0], [_map((5, 5, 1.0))])):
            assert len(source(RECORD, cams)) == 0
    assert [r.message for r in caplog.records] == [
        "FineCAMPeaks gives no prompts: there are no fine maps"
    ]


def test_maps_of_another_size_are_refused() -> None:
    cams = _cams([0], [_map((5, 5, 1.0))])
    with pytest.raises(ValueError, match=r"'a' are of a \(40, 60\) image"):
        CoarseCAMPeaks(settings=PeakSettings())({**RECORD, "width": 61}, cams)


def test_peaks_of_huge_images_are_sought_at_2000_pixels_and_scaled_back() -> None:
    cam = np.zeros((1, 1, 300), np.float32)
    cam[0, 0, 200] = 1.0
    cams = CamMaps(image_size=(20, 6000), classes=np.array([0]), coarse=(cam,))
    record = {"image_id": "a", "height": 20, "width": 6000}
    points = np.array(_points(CoarseCAMPeaks(settings=PeakSettings())(record, cams))).reshape(-1, 2)
    assert len(points) and np.abs(points[:, 0] - 200.5 * 20).max() <= 3
    assert points[:, 1].min() >= 0 and points[:, 1].max() < 20


def _cross(*peaks: tuple[int, int]) -> np.ndarray:
    """(1, heads, 1, H, W): one head for each peak."""
    return np.stack([_map((x, y, 1.0)) for x, y in peaks])[None, :, None]


def test_cross_attention_peaks_become_cluster_centers_without_class() -> None:
    # weaksam.md, Sec. 3.2, example: ten points at two places.
    cross = _cross(*[(10, 10)] * 5, *[(50, 30)] * 5)
    cams = _cams([4], [_map()], cross=(cross,))
    prompts = CrossAttentionPeaks(settings=PeakSettings(kernel_size=129, cluster_divisor=5))(
        RECORD, cams
    )
    assert sorted(_points(prompts)) == [[(10, 10)], [(50, 30)]]
    assert prompts.classes.tolist() == [-1, -1] and prompts.scores.tolist() == [1, 1]


def test_without_clustering_cross_peaks_name_class_head_and_block() -> None:
    cross = np.zeros((2, 3, 2, 40, 60), np.float32)
    cross[0, 1, 0, 7, 8] = cross[1, 2, 1, 9, 30] = 1.0
    cams = _cams([4, 6], [_map(), _map()], cross=(cross,))
    prompts = CrossAttentionPeaks(settings=PeakSettings(kernel_size=129))(RECORD, cams)
    assert _points(prompts) == [[(8, 7)], [(30, 9)]]
    assert prompts.classes.tolist() == [4, 6]
    assert prompts.heads.tolist() == [1, 2] and prompts.blocks.tolist() == [1, 2]


def test_blocks_have_the_numbers_of_the_network() -> None:
    cross = np.zeros((1, 2, 3, 40, 60), np.float32)
    cross[0, 1, 2, 7, 8] = 1.0
    source = CrossAttentionPeaks(settings=PeakSettings(kernel_size=129))
    prompts = source(RECORD, _cams([4], [_map()], cross=(cross,), blocks=(5, 6, 12)))
    assert prompts.heads.tolist() == [1] and prompts.blocks.tolist() == [12]
    with pytest.raises(ValueError, match=r"3 blocks, named are \(5, 6\)"):
        source(RECORD, _cams([4], [_map()], cross=(cross,), blocks=(5, 6)))
    coarse = CoarseCAMPeaks(settings=PeakSettings())(
        RECORD, _cams([4], [_map((3, 3, 1.0))], blocks=(5, 6, 12))
    )
    assert coarse.heads.tolist() == coarse.blocks.tolist() == [-1]


def test_attention_of_the_whole_image_has_no_class() -> None:
    cross = np.zeros((1, 1, 1, 40, 60), np.float32)
    cross[..., 7, 8] = 1.0
    for tags in ([4, 6], [4]):  # also where one class would fit the one row
        maps = [_map() for _ in tags]
        cams = _cams(tags, maps, cross=(cross,), blocks=(12,), cross_rows="image")
        prompts = CrossAttentionPeaks(settings=PeakSettings(kernel_size=129))(RECORD, cams)
        assert prompts.classes.tolist() == [-1] and prompts.blocks.tolist() == [12]


def test_a_cluster_carries_the_peaks_it_is_made_of() -> None:
    cross = np.zeros((2, 5, 1, 40, 60), np.float32)
    for head in range(5):
        cross[0, head, 0, 7, 8 + head % 2] = cross[1, head, 0, 30, 50] = 1.0
    cams = _cams([4, 6], [_map(), _map()], cross=(cross,), blocks=(9,))
    options = {"kernel_size": 129, "cluster_divisor": 5}
    prompts = CrossAttentionPeaks(settings=PeakSettings(**options))(RECORD, cams)
    assert prompts.points.tolist() == pytest.approx(np.array([[8.4, 7], [50, 30]])) or (
        prompts.points.tolist() == pytest.approx(np.array([[50, 30], [8.4, 7]]))
    )
    peaks = prompts.peaks
    assert peaks["class"].tolist() == [4] * 5 + [6] * 5
    assert peaks["head"].tolist() == list(range(5)) * 2 and set(peaks["block"]) == {9}
    for row, center in enumerate(prompts.points):
        own = peaks[peaks["prompt"] == row]
        assert len(own) == 5 and len(set(own["class"])) == 1
        np.testing.assert_allclose(center, [own["x"].mean(), own["y"].mean()], rtol=1e-6)
    np.testing.assert_array_equal(peaks["score"], 1)
    bare = CrossAttentionPeaks(settings=PeakSettings(**options, save_peaks=False))(RECORD, cams)
    assert bare.peaks is None and bare.points.tolist() == prompts.points.tolist()
    whole = PeakSettings(**options, cluster_truncate=True)
    cut = CrossAttentionPeaks(settings=whole)(RECORD, cams)
    assert sorted(cut.points.tolist()) == [[8, 7], [50, 30]]


def test_any_source_can_be_clustered_or_joined() -> None:
    cams = _cams([4], [_map((5, 5, 1.0), (45, 35, 1.0))])
    source = CoarseCAMPeaks(settings=PeakSettings(cluster_divisor=2))
    assert _points(source(RECORD, cams)) == [[(25, 20)]]
    cross = np.zeros((2, 2, 1, 40, 60), np.float32)
    cross[0, 0, 0, 7, 8] = cross[0, 1, 0, 9, 30] = cross[1, 1, 0, 3, 3] = 1.0
    joint = CrossAttentionPeaks(settings=PeakSettings(kernel_size=129, joint=True))
    prompts = joint(RECORD, _cams([4, 6], [_map(), _map()], cross=(cross,)))
    assert _points(prompts) == [[(8, 7)], [(30, 9)], [(3, 3)], [(8, 7), (30, 9)]]
    assert prompts.classes.tolist() == [4, 4, 6, 4] and prompts.heads.tolist() == [0, 1, 1, -1]


def test_no_cross_peak_gives_no_prompt() -> None:
    cams = _cams([4], [_map()], cross=(np.ones((1, 2, 1, 5, 6), np.float32),))
    source = CrossAttentionPeaks(settings=PeakSettings(kernel_size=129, cluster_divisor=5))
    assert len(source(RECORD, cams)) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "l3"}, "METRIC .* 'l3', allowed: l1, l2"),
        ({"plateau": "last"}, "PLATEAU .* allowed: all, first"),
        ({"joint": True, "cluster_divisor": 5}, "contradict"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PeakSettings(**settings)
