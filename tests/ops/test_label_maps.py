"""Label maps from activation maps, and regions painted over each other."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops import (
    add_background,
    background_score,
    cam_to_label,
    ignore_uncertain,
    paint_order,
    paint_regions,
)


def cam(*values: float) -> np.ndarray:
    """Maps of one pixel."""
    return np.array(values, np.float32).reshape(-1, 1, 1)


def test_the_worked_examples_of_the_background() -> None:
    assert cam_to_label(cam(0.8, 0.3), [0, 1], background="constant:0.43").item() == 1
    assert background_score(cam(0.8, 0.3), "power:1").item() == pytest.approx(0.2)
    assert background_score(cam(0.8, 0.3), "power:2").item() == pytest.approx(0.04)
    assert cam_to_label(cam(0.4, 0.3), [0, 1], background="constant:0.43").item() == 0
    assert cam_to_label(cam(0.4, 0.3), [0, 1], background="power:1").item() == 0  # 0.6
    assert cam_to_label(cam(0.4, 0.3), [0, 1], background="power:2").item() == 1  # 0.36
    assert background_score(np.zeros((0, 2, 3), np.float32), "power:2").tolist() == [[1] * 3] * 2


def test_background_wins_ties_and_then_the_lower_class() -> None:
    assert cam_to_label(cam(0.43), [4], background="constant:0.43").item() == 0
    assert cam_to_label(cam(0.5), [4], background="power:1").item() == 0
    assert cam_to_label(cam(0.7, 0.7, 0.6), [2, 5, 9], background="constant:0.43").item() == 3


def test_no_classes_are_all_background() -> None:
    label = cam_to_label(np.zeros((0, 4, 5), np.float32), [])
    assert label.shape == (4, 5) and label.dtype == np.uint8 and not label.any()


def reference(maps: np.ndarray, classes: list[int], rule: str) -> np.ndarray:
    """Pixel by pixel, with Python's own comparison of tuples."""
    kind, number = rule.split(":")
    label = np.zeros(maps.shape[1:], np.uint8)
    for y, x in np.ndindex(*label.shape):
        column = maps[:, y, x]
        best = max(column.tolist(), default=0.0)
        score = np.float32(number) if kind == "constant" else np.float32(1 - best) ** float(number)
        choices = [(score, 0), *((value, c + 1) for value, c in zip(column, classes, strict=True))]
        label[y, x] = max(choices, key=lambda choice: (choice[0], -choice[1]))[1]
    return label


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 253), max_size=4, unique=True).map(sorted),
    st.sampled_from(["constant:0.5", "constant:0", "power:1", "power:2", "power:0"]),
    st.randoms(use_true_random=False),
)
def test_labels_agree_with_a_slow_reference(classes: list[int], rule: str, random: Any) -> None:
    values = [0.0, 0.25, 0.5, 0.75, 1.0]  # ties are frequent and exact
    maps = np.array(
        [[[random.choice(values) for _ in range(3)] for _ in range(2)] for _ in classes], np.float32
    ).reshape(len(classes), 2, 3)
    label = cam_to_label(maps, classes, background=rule)
    assert np.array_equal(label, reference(maps, classes, rule))
    assert set(np.unique(label).tolist()) <= {0, *(c + 1 for c in classes)}
    scores = add_background(maps, rule)
    assert scores.shape == (len(classes) + 1, 2, 3) and scores.dtype == np.float32


@pytest.mark.parametrize(
    ("maps", "classes", "message"),
    [
        (cam(0.1, 0.2), [1, 0], "classes must rise"),
        (cam(0.1, 0.2), [1, 1], "classes must rise"),
        (cam(0.1), [254], "classes must rise within 0 to 253"),
        (cam(0.1), [-1], "classes must rise"),
        (cam(0.1), [0, 1], r"cam must be \(2, H, W\)"),
        (cam(0.1)[0], [0], r"cam must be \(1, H, W\)"),
        (cam(1.5), [0], r"expected values in \[0, 1\]"),
        (cam(-0.1), [0], r"expected values in \[0, 1\]"),
        (cam(float("nan")), [0], r"expected values in \[0, 1\]"),
    ],
)
def test_wrong_maps_are_refused(maps: np.ndarray, classes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cam_to_label(maps, classes)


@pytest.mark.parametrize("rule", ["0.43", "constant:", "power:-1", "constant:nan", "best:1", ""])
def test_wrong_backgrounds_are_refused(rule: str) -> None:
    for maps, classes in ((cam(0.5), [0]), (np.zeros((0, 1, 1), np.float32), [])):
        with pytest.raises(ValueError, match="WEAKSAM.LABELS.BACKGROUND is"):
            cam_to_label(maps, classes, background=rule)


def test_uncertain_pixels_are_ignored() -> None:
    label = np.array([[1, 2, 0]], np.uint8)
    sure = np.array([[0.95, 0.94, 0.1]], np.float32)
    assert ignore_uncertain(label, sure, np.float32(0.95)).tolist() == [[1, 255, 255]]
    assert ignore_uncertain(label, sure, 0.0).tolist() == label.tolist()
    with pytest.raises(ValueError, match="its confidence"):
        ignore_uncertain(label, sure[:, :2], 0.5)


def test_smaller_regions_are_painted_on_top() -> None:
    areas, labels, scores = [4, 9, 4, 4], [3, 1, 2, 5], [0.9, 0.1, 0.5, 0.5]
    # Of the three of area 4: lower scores first, of these the higher label.
    assert paint_order(areas, labels, scores).tolist() == [1, 3, 2, 0]
    assert paint_order(areas, labels).tolist() == [1, 3, 0, 2]  # the lowest label ends on top
    assert paint_order([], []).tolist() == []
    with pytest.raises(ValueError, match="2 areas, 1 labels"):
        paint_order([1, 2], [1])


def test_boxsams_example_of_two_boxes() -> None:
    person, bottle = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    person[:, :3] = True
    bottle[2:, 2:] = True
    order = paint_order([12, 4], [15, 5], [0.9, 0.5])
    by_area = paint_regions((4, 4), [person, bottle], [15, 5], order)
    expected = [[15, 15, 15, 0], [15, 15, 15, 0], [15, 15, 5, 5], [15, 15, 5, 5]]
    assert by_area.tolist() == expected
    by_score = paint_regions((4, 4), [person, bottle], [15, 5], np.argsort([0.9, 0.5]))
    expected[2][2] = expected[3][2] = 15
    assert by_score.tolist() == expected


def test_regions_are_painted_on_a_copy_of_the_base() -> None:
    base = np.full((2, 2), 255, np.uint8)
    painted = paint_regions((2, 2), [np.array([[1, 0], [0, 0]])], [7], base=base)
    assert painted.tolist() == [[7, 255], [255, 255]] and (base == 255).all()
    assert not paint_regions((2, 3), [], []).any()


@pytest.mark.parametrize(
    ("regions", "labels", "base", "message"),
    [
        ([np.ones((2, 3))], [1], None, r"region 0 is \(2, 3\)"),
        ([np.ones((2, 2))], [1, 2], None, "1 regions and 2 labels"),
        ([np.ones((2, 2))], [256], None, "label 256 of region 0"),
        ([], [], np.zeros((1, 1), np.uint8), r"base is \(1, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    regions: list[Any], labels: list[int], base: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paint_regions((2, 2), regions, labels, base=base)
