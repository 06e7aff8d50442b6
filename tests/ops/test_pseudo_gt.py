"""Tests of weaksam_d2.ops.pseudo_gt."""

import numpy as np
import pytest

from weaksam_d2.ops import select_adaptive, select_top1

FAR = [300.0, 300, 310, 310]


def chosen(boxes: list, scores: list, **options: object) -> list[int]:
    classes = np.zeros(len(scores), dtype=np.int64)
    return select_adaptive(boxes, scores, classes, [0], **options).index.tolist()  # type: ignore


def test_a_part_of_a_bigger_box_goes() -> None:
    boxes = [[0, 0, 100, 100], [10, 10, 50, 50], [120, 0, 200, 80], FAR]
    scores = [0.9, 0.8, 0.5, 0.1]
    selection = select_adaptive(boxes, scores, [0] * 4, [0])
    assert selection.index.tolist() == [0, 2]
    np.testing.assert_allclose(selection.score_norm, [1, 0.5])
    assert selection.score_norm.dtype == np.float32
    release = select_adaptive(boxes, scores, [0] * 4, [0], norm="release")
    assert release.index.tolist() == [0, 2]
    np.testing.assert_allclose(release.score_norm, [1.125, 0.625], rtol=1e-6)


def test_one_of_two_duplicates_stays() -> None:
    boxes = [[0, 0, 100, 100], [2, 2, 102, 102], [300, 0, 340, 40]]
    assert chosen(boxes, [0.9, 0.8, 0.1], contain="literal") == []
    assert chosen(boxes, [0.9, 0.8, 0.1]) == [0]
    assert chosen(boxes, [0.8, 0.9, 0.1]) == [1]


def test_single_equal_and_no_detections() -> None:
    single = select_adaptive([[0, 0, 5, 5]], [0.02], [0], [0])
    assert single.index.tolist() == [0]
    assert single.score_norm.tolist() == [1]
    assert chosen([[0, 0, 5, 5]], [0.02], norm="release") == [0]
    apart = [[0, 0, 5, 5], [10, 0, 15, 5], [20, 0, 25, 5]]
    assert chosen(apart, [0.4, 0.4, 0.4]) == [0, 1, 2]
    empty = select_adaptive(np.zeros((0, 4)), [], [], [0])
    assert empty.index.shape == (0,)
    assert empty.index.dtype == np.int64
    assert empty.score_norm.dtype == np.float32


def test_a_part_that_scores_higher() -> None:
    boxes = [[0, 0, 40, 40], [0, 0, 100, 100], FAR]
    assert chosen(boxes, [0.9, 0.6, 0.1]) == [1]
    assert chosen(boxes, [0.9, 0.6, 0.1], contain="score") == [0, 1]


def test_a_removed_box_cannot_remove() -> None:
    boxes = [[0, 10, 100, 110], [0, 4, 50, 64], [0, 0, 20, 50], FAR]
    scores = [0.9, 0.8, 0.7, 0.1]
    assert chosen(boxes, scores, contain="literal") == [0]
    assert chosen(boxes, scores, contain="area") == [0, 2]


def test_only_tagged_classes_are_chosen() -> None:
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60]]
    selection = select_adaptive(boxes, [0.9, 0.8], [11, 7], [11], score_thresh=0.0)
    assert selection.index.tolist() == [0]
    assert select_top1(boxes, [0.9, 0.8], [11, 7], [11]).index.tolist() == [0]
    assert len(select_adaptive(boxes, [0.9, 0.8], [11, 7], []).index) == 0


def test_classes_do_not_interact_and_the_order_is_class_then_score() -> None:
    boxes = [[0, 0, 100, 100], [10, 10, 50, 50], FAR, [120, 0, 160, 40]]
    selection = select_adaptive(boxes, [0.2, 0.9, 0.1, 0.8], [3, 1, 3, 1], [3, 1], score_thresh=0.0)
    assert selection.index.tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(selection.score_norm, [1, 0, 1, 0])


def test_degenerate_detections_are_left_out_before_normalization() -> None:
    boxes = [[0, 0, 10, 10], [5, 5, 5, 9], [0, 0, np.nan, 4], [20, 20, 30, 30], [40, 0, 50, 9]]
    scores = [0.5, 0.9, 0.9, 0.5, np.nan]
    selection = select_adaptive(boxes, scores, [0] * 5, [0])
    assert selection.index.tolist() == [0, 3]
    assert selection.score_norm.tolist() == [1, 1]
    assert select_top1(boxes, scores, [0] * 5, [0]).index.tolist() == [0]


def test_a_full_threshold_equals_top1_and_a_cap_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    low = rng.random((40, 2)) * 50
    boxes = np.concatenate([low, low + 1 + rng.random((40, 2)) * 20], axis=1)
    scores, classes = rng.random(40), rng.integers(0, 4, 40)
    top = select_top1(boxes, scores, classes, [0, 1, 3])
    strict = select_adaptive(boxes, scores, classes, [0, 1, 3], score_thresh=1.0)
    assert strict.index.tolist() == top.index.tolist()
    capped = select_adaptive(boxes, scores, classes, [0, 1, 3], max_per_class=2)
    free = select_adaptive(boxes, scores, classes, [0, 1, 3])
    for c in (0, 1, 3):
        rows = free.index[classes[free.index] == c]
        assert capped.index[classes[capped.index] == c].tolist() == rows[:2].tolist()
        assert (np.diff(scores[rows]) <= 0).all()
        assert len(rows) > 0  # no class is lost


def slow_adaptive(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    scaled = (scores - scores.min()) / (scores.max() - scores.min())
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    rows = [i for i in range(len(boxes)) if scaled[i] >= 0.3]
    kept: list[int] = []
    for j in sorted(rows, key=lambda i: (-area[i], -scores[i], i)):
        share = [
            max(0, min(boxes[j][2], boxes[k][2]) - max(boxes[j][0], boxes[k][0]))
            * max(0, min(boxes[j][3], boxes[k][3]) - max(boxes[j][1], boxes[k][1]))
            / area[j]
            for k in kept
        ]
        if all(s < 0.85 for s in share):
            kept.append(j)
    return sorted(kept, key=lambda i: (-scores[i], i))


def test_choice_equals_the_slow_rule() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        low = rng.integers(0, 20, (30, 2))
        boxes = np.concatenate([low, low + rng.integers(1, 25, (30, 2))], axis=1)
        scores = rng.permutation(30) / 30
        assert chosen(boxes, scores) == slow_adaptive(boxes, scores)  # type: ignore[arg-type]


def test_top1_takes_the_first_best_above_zero() -> None:
    boxes = [[0, 0, 5, 5], [9, 9, 12, 12], [20, 20, 25, 25]]
    selection = select_top1(boxes, [0.5, 0.5, 0.0], [0, 0, 1], [0, 1])
    assert selection.index.tolist() == [0]
    assert selection.score_norm.tolist() == [1]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="iou"):
        chosen([FAR], [0.5], contain="iou")
    with pytest.raises(ValueError, match="softmax"):
        chosen([FAR], [0.5], norm="softmax")
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        select_top1([FAR], [0.5, 0.4], [0, 0], [0])
