"""From a detector's raw outputs to boxes of classes."""

import numpy as np
import pytest
import torch
from torch import Tensor
from weaksam_d2.projects.boxsam import BoxSettings, ClassBoxes, class_scores, select_boxes
from weaksam_d2.projects.boxsam.boxes import to_pixels

SIZE = (100, 200)
CAT, COW, HORSE = 1, 3, 5


def chosen(boxes: list[list[float]], scores: list[list[float]], **settings: float) -> ClassBoxes:
    rows = torch.tensor(boxes, dtype=torch.float32)
    values = torch.tensor(scores, dtype=torch.float32)
    kinds = (CAT, COW, HORSE)[: values.shape[1]]
    return select_boxes(rows, values, kinds, SIZE, BoxSettings(**settings))  # type: ignore[arg-type]


def test_a_class_scores_its_best_token() -> None:
    probs = torch.tensor([[0.9, 0.2, 0.8, 0.5, 0.1, 0.7]])
    assert class_scores(probs, [[1], [3, 4]])[0].tolist() == pytest.approx([0.2, 0.5])


def test_boxes_go_to_pixels_of_the_image() -> None:
    boxes = to_pixels(torch.tensor([[0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 0.2]]), SIZE)
    torch.testing.assert_close(boxes, Tensor([[0, 0, 200, 100], [0, 40, 100, 60]]))


def test_a_query_is_of_its_best_class_and_at_a_tie_of_the_lower_one() -> None:
    found = chosen([[0, 0, 20, 20], [50, 0, 80, 20]], [[0.4, 0.6], [0.5, 0.5]])
    assert found.classes.tolist() == [COW, CAT]
    assert found.scores.tolist() == pytest.approx([0.6, 0.5])
    turned = select_boxes(
        torch.tensor([[0.0, 0, 20, 20]]),
        torch.tensor([[0.5, 0.5]]),
        (COW, CAT),
        SIZE,
        BoxSettings(),
    )
    assert turned.classes.tolist() == [CAT]


def test_a_score_at_the_threshold_is_too_low() -> None:
    boxes = [[0.0, 0, 20, 20], [50, 0, 80, 20]]
    found = chosen(boxes, [[0.25], [0.26]], box_threshold=0.25)
    assert found.boxes.tolist() == [boxes[1]]


def test_boxes_are_clipped_and_dropped_outside_or_below_two_pixels() -> None:
    boxes = [[-5, -5, 30, 30], [190, 90, 900, 900], [300, 0, 400, 50], [10, 10, 11.9, 60]]
    found = chosen([*boxes, [40, 40, 42, 42]], [[0.9], [0.8], [0.7], [0.6], [0.5]])
    assert found.boxes.tolist() == [[0, 0, 30, 30], [190, 90, 200, 100], [40, 40, 42, 42]]


def test_boxes_that_are_not_finite_are_dropped_and_counted() -> None:
    boxes = [[0, 0, float("nan"), 20], [0, 0, float("inf"), 20], [0, 0, 20, 20]]
    found = chosen([*boxes, [float("nan")] * 4], [[0.9], [0.9], [0.8], [0.1]])
    assert found.boxes.tolist() == [[0, 0, 20, 20]] and found.bad == 2


def test_a_box_of_the_whole_image_is_legal() -> None:
    assert chosen([[0, 0, 200, 100]], [[0.9]]).boxes.tolist() == [[0, 0, 200, 100]]


def test_overlapping_boxes_of_a_class_are_suppressed_above_the_iou() -> None:
    boxes = [[0, 0, 100, 10], [0, 0, 70, 10], [0, 0, 71, 10]]  # IoU .7 and .71 with the first
    found = chosen(boxes, [[0.9], [0.8], [0.7]], nms=0.7)
    assert found.boxes.tolist() == boxes[:2]


def test_the_same_box_of_two_classes_goes_to_the_better_one() -> None:
    boxes = [[0, 0, 100, 10], [0, 0, 90, 10], [0, 0, 89, 10]]
    found = chosen(boxes, [[0.6, 0.4, 0], [0, 0.5, 0], [0, 0, 0.55]], nms=1.0)
    assert found.classes.tolist() == [
        CAT,
        HORSE,
    ]  # IoU .9 of the cow is enough, the horse's .89 not
    far = chosen([boxes[0], boxes[2]], [[0.5, 0], [0, 0.6]], nms=1.0)
    assert far.classes.tolist() == [COW, CAT]
    off = chosen([boxes[0]] * 2, [[0.5, 0], [0, 0.6]], cross_class_nms=1.5)
    assert off.classes.tolist() == [COW, CAT]


def test_of_equal_scores_the_lower_class_keeps_the_box() -> None:
    same = [[0, 0, 50, 50]] * 3
    found = chosen(same, [[0, 0, 0.5], [0, 0.5, 0], [0.5, 0, 0]])
    assert found.classes.tolist() == [CAT]


def test_a_box_that_lost_its_class_suppresses_nobody() -> None:
    # cat 0.9 takes the box of cow 0.8; horse overlaps the cow alone.
    boxes = [[0, 0, 100, 10], [0, 0, 91, 10], [0, 0, 83, 10]]
    found = chosen(boxes, [[0.9, 0, 0], [0, 0.8, 0], [0, 0, 0.7]])
    assert found.classes.tolist() == [CAT, HORSE]


def test_the_best_boxes_stay_by_falling_score() -> None:
    boxes = [[x, 0.0, x + 10, 10] for x in (0, 20, 40, 60)]
    found = chosen(boxes, [[0.5], [0.9], [0.7], [0.8]], max_boxes=2)
    assert found.boxes[:, 0].tolist() == [20, 60]
    assert found.boxes.dtype == np.float32 and found.classes.dtype == np.int64


def test_no_class_and_no_box_give_nothing() -> None:
    nothing = torch.zeros(3, 0)
    assert len(select_boxes(torch.zeros(3, 4), nothing, (), SIZE, BoxSettings())) == 0
    assert len(chosen([[0, 0, 20, 20]], [[0.1]])) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"box_threshold": 1.0}, {"nms": -0.1}, {"cross_class_nms": 0}, {"max_boxes": 0}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"BOXSAM\.DETECTOR"):
        BoxSettings(**wrong)  # type: ignore[arg-type]
