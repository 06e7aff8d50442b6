"""Conventions of boxes, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.artifacts import ForeignFileError
from weaksam_d2.proposals.convert.layouts import BoxLayout, LayoutEvidence, detect_layout


@pytest.mark.parametrize(
    ("layout", "row"),
    [
        (BoxLayout("xyxy"), [3, 1, 5, 4]),
        (BoxLayout("xywh"), [3, 1, 2, 3]),
        (BoxLayout("xyxy", inclusive=True), [3, 1, 4, 3]),
        (BoxLayout("xywh", inclusive=True), [3, 1, 1, 2]),
        (BoxLayout("yxyx", first=1, inclusive=True), [2, 4, 4, 5]),
        (BoxLayout("xyxy", first=1), [4, 2, 6, 5]),
    ],
)
def test_columns_3_and_4_of_rows_1_to_3_in_every_layout(layout: BoxLayout, row: list[int]) -> None:
    for dtype in ("u1", "u2", "i4", "f4", "f8"):
        boxes = layout.to_boxes(np.array([row], dtype))
        assert boxes.dtype == np.float32 and boxes.tolist() == [[3, 1, 5, 4]]
    assert layout.from_boxes(np.array([[3, 1, 5, 4]], np.float32)).tolist() == [row]


def test_voc_object_of_the_specification() -> None:
    # XML (48, 240, 195, 371) is the box [47, 239, 195, 371] (weaksam.md, Appendix D, 5).
    layout = BoxLayout("xyxy", first=1, inclusive=True)
    assert layout.to_boxes([[48, 240, 195, 371]]).tolist() == [[47, 239, 195, 371]]


def test_unsigned_integers_do_not_wrap() -> None:
    rows = np.array([[200, 250, 100, 10]], np.uint8)
    assert BoxLayout("xywh").to_boxes(rows).tolist() == [[200, 250, 300, 260]]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 2**14), min_size=4, max_size=4),
    st.sampled_from(["xyxy", "yxyx", "xywh"]),
    st.integers(0, 1),
    st.booleans(),
)
def test_from_boxes_is_the_inverse(
    sixteenths: list[int], order: str, first: int, inclusive: bool
) -> None:
    boxes = np.array([sixteenths], np.float32) / 16
    layout = BoxLayout(order, first, inclusive)
    np.testing.assert_array_equal(layout.to_boxes(layout.from_boxes(boxes)), boxes)


def evidence(*rows: list[float]) -> LayoutEvidence:
    found = LayoutEvidence()
    for row in rows:
        found.add("a", np.array([row]), (40, 60))
    return found


def test_a_falling_box_proves_xywh_and_a_box_that_would_leave_the_image_proves_xyxy() -> None:
    assert detect_layout("f", evidence([1, 1, 5, 5], [30, 10, 20, 20])) == "xywh"
    assert detect_layout("f", evidence([1, 1, 5, 5], [30, 10, 50, 20])) == "xyxy"
    assert detect_layout("f", evidence([1, 25, 5, 10])) == "xywh"
    assert detect_layout("f", evidence([1, 25, 5, 30])) == "xyxy"


def test_empty_boxes_one_pixel_boxes_and_nan_prove_nothing() -> None:
    for row in ([0, 0, 0, 0], [5, 5, 5, 5], [np.nan] * 4, [1, 1, 60, 40], [2, 2, 59, 39]):
        with pytest.raises(ForeignFileError, match="f: every box is possible both .*--box-format"):
            detect_layout("f", evidence(row))


def test_contradicting_boxes_are_refused_with_both() -> None:
    words = r"\[30.0, 10.0, 20.0, 20.0\] of image 'a' falls.*\[30.0, 10.0, 50.0, 20.0\].*leaves"
    with pytest.raises(ForeignFileError, match=words):
        detect_layout("f", evidence([30, 10, 20, 20], [30, 10, 50, 20]))
