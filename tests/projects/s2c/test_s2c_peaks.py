"""Peaks of a class's map (wsss.md, Sec. 6.4, item 2)."""

import numpy as np
import pytest
import torch
from torch import Tensor
from weaksam_d2.projects.s2c import class_peaks

LINE = torch.tensor([[0, 0.9, 0.2, 0.6, 0.55, 1, 0.1]])


def with_peaks(size: tuple[int, int], **values: float) -> Tensor:
    cam = torch.zeros(size)
    for place, value in values.items():
        row, column = map(int, place.strip("p").split("_"))
        cam[row, column] = value
    return cam


@pytest.mark.parametrize(("radius", "expected"), [(1, [5, 1, 3]), (2, [5, 1])])
def test_peaks_of_a_line(radius: int, expected: list[int]) -> None:
    assert class_peaks(LINE, radius=radius)[:, 0].tolist() == expected
    upright = class_peaks(LINE.T, radius=radius)
    assert upright[:, 1].tolist() == expected and not upright[:, 0].any()


def test_a_peak_must_be_above_tau_also_the_global_one() -> None:
    assert class_peaks(LINE, radius=1, tau=0.6)[:, 0].tolist() == [5, 1]
    assert len(class_peaks(0.5 * LINE, radius=1)) == 0
    assert len(class_peaks(0.5 * LINE, radius=1, count="single")) == 0


def test_a_single_peak_is_the_global_maximum() -> None:
    assert class_peaks(LINE, radius=1, count="single").tolist() == [[5, 0]]


def test_a_constant_map_has_one_peak_in_its_first_pixel() -> None:
    assert class_peaks(torch.ones(90, 60), radius=20).tolist() == [[0, 0]]


def test_a_plateau_counts_once_however_large_it_is() -> None:
    cam = torch.zeros(40, 40)
    cam[10:30, 5:35] = 0.8
    cam[35, 38] = 1.0
    assert class_peaks(cam, radius=3).tolist() == [[38, 35], [5, 10]]


def test_equal_maxima_within_the_radius_keep_the_first() -> None:
    cam = with_peaks((1, 12), p0_2=0.9, p0_5=0.9, p0_9=0.9)
    assert class_peaks(cam, radius=3)[:, 0].tolist() == [2, 9]
    assert class_peaks(cam, radius=2)[:, 0].tolist() == [2, 5, 9]


def test_a_map_smaller_than_the_window_has_its_global_maximum() -> None:
    cam = with_peaks((10, 12), p2_3=0.8, p8_9=0.9)
    assert class_peaks(cam, radius=20).tolist() == [[9, 8]]


def slow_peaks(cam: np.ndarray, radius: int, tau: float) -> list[list[int]]:
    found = []
    for row, column in np.ndindex(*cam.shape):
        window = cam[
            max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1
        ]
        if cam[row, column] > tau and cam[row, column] == window.max():
            found.append((-cam[row, column], row, column))
    kept: list[list[int]] = []
    for _, row, column in sorted(found):
        if all(max(abs(row - y), abs(column - x)) > radius for x, y in kept):
            kept.append([column, row])
    return kept


@pytest.mark.parametrize("radius", [1, 3, 6])
def test_peaks_without_plateaus_equal_the_slow_rule(radius: int) -> None:
    cam = np.random.default_rng(radius).permutation(600).reshape(20, 30) / 600
    found = class_peaks(torch.from_numpy(cam), radius=radius)
    assert len(found) > 1
    assert found.tolist() == slow_peaks(cam.astype(np.float32), radius, 0.5)


def test_the_released_rule_has_its_defects() -> None:
    def dots(**values: float) -> list[list[float]]:
        cam = with_peaks((64, 64), **values)
        # Peaks with a flank, so that the test of the pixel beside them passes.
        cam = torch.nn.functional.max_pool2d(cam[None] * 0.9, 3, 1, 1)[0].maximum(cam)
        return class_peaks(cam, radius=10, rule="skimage").tolist()

    # The global maximum is exact, the others lie one pixel up and left.
    assert dots(p30_30=1.0, p30_50=0.8) == [[30, 30], [49, 29]]
    # A peak near the border is never found.
    assert dots(p30_30=1.0, p30_58=0.8) == [[30, 30]]
    # The global maximum near the border: the best other peak is lost as its duplicate.
    assert dots(p30_60=1.0, p30_30=0.9, p50_30=0.8) == [[60, 30], [29, 49]]


def test_the_released_rule_rejects_a_dot_and_keeps_a_low_global_maximum() -> None:
    dots = with_peaks((64, 64), p30_30=1.0, p30_50=0.9)  # the pixel beside 0.9 is 0, below tau
    assert class_peaks(dots, radius=10, rule="skimage").tolist() == [[30, 30]]
    low = class_peaks(0.2 * dots, radius=10, rule="skimage")
    assert low.tolist() == [[30, 30]]
    assert class_peaks(dots, radius=10, rule="skimage", count="single").tolist() == [[30, 30]]


@pytest.mark.parametrize(
    ("key", "settings"),
    [("PEAK_RULE", {"rule": "max"}), ("PEAKS", {"count": "all"}), ("PEAK_RADIUS", {"radius": 0})],
)
def test_unknown_settings_are_refused(key: str, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"MODEL.S2C.{key} "):
        class_peaks(LINE, **settings)
