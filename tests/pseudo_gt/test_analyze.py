"""Precision and recall of pseudo boxes."""

from math import isnan
from typing import Any

import pytest
from detectron2.structures import BoxMode

from weaksam_d2.artifacts import PseudoGroundTruth
from weaksam_d2.pseudo_gt import analyze_pseudo_gt

CATEGORIES = [{"id": 5, "name": "cat"}, {"id": 3, "name": "dog"}]


def make_pgt(*boxes: tuple[str, int, list[float]]) -> PseudoGroundTruth:
    annotations = [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in boxes]
    return PseudoGroundTruth([{"id": "x"}, {"id": "y"}], annotations, CATEGORIES, {})


def truth(image_id: str, *objects: tuple[int, list[float], int]) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "annotations": [
            {"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "difficult": d}
            for c, b, d in objects
        ],
    }


TRUTH = [
    truth("x", (0, [0, 0, 10, 10], 0), (0, [50, 50, 60, 60], 0), (1, [0, 0, 10, 10], 1)),
    truth("y", (1, [0, 0, 20, 20], 0)),
]


def test_a_pseudo_box_finds_at_most_one_true_box_of_its_class() -> None:
    pgt = make_pgt(
        ("x", 5, [0, 0, 10, 10]),
        ("x", 5, [0, 0, 10, 9]),  # the same cat again
        ("x", 3, [50, 50, 10, 10]),  # a cat called a dog
        ("x", 3, [0, 0, 10, 10]),  # a difficult dog: right, but not counted in recall
    )
    found = analyze_pseudo_gt(pgt, TRUTH)
    assert found["precision"] == pytest.approx(100 * 2 / 4)
    assert found["recall"] == pytest.approx(100 * 1 / 3)
    assert found["boxes_per_image"] == 2
    assert found["per_class"]["cat"]["precision"] == pytest.approx(50)
    assert found["per_class"]["cat"]["recall"] == pytest.approx(50)
    assert found["per_class"]["dog"]["precision"] == pytest.approx(50)
    assert found["per_class"]["dog"]["recall"] == 0


def test_the_iou_is_a_parameter_and_equality_counts() -> None:
    pgt = make_pgt(("y", 3, [0, 0, 20, 10]))
    assert analyze_pseudo_gt(pgt, TRUTH, iou=0.5)["precision"] == 100
    assert analyze_pseudo_gt(pgt, TRUTH, iou=0.51)["precision"] == 0


def test_nothing_to_count_is_nan_and_not_zero() -> None:
    found = analyze_pseudo_gt(make_pgt(), TRUTH)
    assert isnan(found["precision"]) and found["recall"] == 0
    empty = analyze_pseudo_gt(make_pgt(), [truth("x"), truth("y")])
    assert isnan(empty["recall"])


def test_an_image_without_evaluation_record_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['y'\]"):
        analyze_pseudo_gt(make_pgt(), TRUTH[:1])
