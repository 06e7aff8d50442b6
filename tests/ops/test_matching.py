"""Tests of weaksam_d2.ops.matching."""

import time

import numpy as np
import pytest

from weaksam_d2.ops import (
    best_iou,
    bootstrap_indices,
    corloc_hits,
    iou_matrix,
    match_detections,
    one2one_recall_iou,
    precision_recall,
    voc_ap,
)

TRUTH = [0.0, 0, 10, 10]


def slow_pairs(iou: np.ndarray) -> np.ndarray:
    left, recorded = iou.copy(), np.zeros(len(iou))
    for _ in range(min(iou.shape)):
        g, p = np.unravel_index(left.argmax(), left.shape)
        recorded[g] = left[g, p]
        left[g], left[:, p] = -1, -1
    return recorded


def overlap(share: float) -> list[float]:
    """A box whose IoU with TRUTH is the share."""
    return [0.0, 0, 10, 10 * share]


def test_each_proposal_covers_one_object() -> None:
    truths = [[0, 0, 10, 10], [0, 0, 12, 10], [50, 50, 60, 60]]
    proposals = [[0, 0, 11, 10], [52, 50, 62, 60]]
    iou = iou_matrix(truths, proposals)
    np.testing.assert_allclose([iou[0, 0], iou[1, 0], iou[2, 1]], [10 / 11, 11 / 12, 2 / 3])
    recorded, best = one2one_recall_iou(iou), best_iou(iou)
    np.testing.assert_allclose(recorded, [0, 11 / 12, 2 / 3])
    recall = [float((recorded >= t).mean()) for t in (0.5, 0.75, 0.9)]
    assert recall == pytest.approx([2 / 3, 1 / 3, 1 / 3])
    assert [float((best >= t).mean()) for t in (0.5, 0.75, 0.9)] == pytest.approx([1, 2 / 3, 2 / 3])


def test_pairs_equal_the_slow_rule_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (5, 3), (3, 5), (8, 8), (30, 60)):
        for _ in range(20):
            iou = rng.integers(0, 6, shape) / 5
            np.testing.assert_array_equal(one2one_recall_iou(iou), slow_pairs(iou))


def test_ties_go_to_the_lowest_object_then_proposal() -> None:
    assert one2one_recall_iou(np.array([[0.5, 0.5], [0.5, 0.0]])).tolist() == [0.5, 0]
    assert one2one_recall_iou(np.array([[0.0, 0.5], [0.5, 0.5]])).tolist() == [0.5, 0.5]


def test_objects_without_proposals_are_missed() -> None:
    assert one2one_recall_iou(np.zeros((3, 0))).tolist() == [0, 0, 0]
    assert best_iou(np.zeros((3, 0))).tolist() == [0, 0, 0]
    assert one2one_recall_iou(np.zeros((0, 5))).shape == (0,)
    assert iou_matrix([], [TRUTH]).shape == (0, 1)
    with pytest.raises(ValueError, match="finite"):
        one2one_recall_iou(np.array([[np.nan]]))


def test_pairing_many_proposals_is_fast() -> None:
    iou = np.random.default_rng(1).random((30, 2000))
    start = time.perf_counter()
    for _ in range(10):
        one2one_recall_iou(iou)
    assert (time.perf_counter() - start) / 10 < 0.05


def test_recall_counts_equality_and_corloc_does_not() -> None:
    half = overlap(0.5)
    assert one2one_recall_iou(iou_matrix([TRUTH], [half]))[0] >= 0.5
    assert corloc_hits(["a"], [half], [0.9], {"a": [TRUTH]}).tolist() == [False]
    assert not match_detections(["a"], [half], [0.9], {"a": ([TRUTH], [0])}).true_positive[0]


def test_average_precision_by_hand() -> None:
    recall, precision = precision_recall([1, 0, 1], [0, 1, 0], 2)
    assert recall.tolist() == [0.5, 0.5, 1]
    np.testing.assert_allclose(precision, [1, 0.5, 2 / 3])
    assert voc_ap(recall, precision, "11point") == pytest.approx(0.848485, abs=1e-6)
    assert voc_ap(recall, precision, "area") == pytest.approx(0.833333, abs=1e-6)


def test_eleven_levels_are_exact() -> None:
    recall, precision = precision_recall([1] * 3, [0] * 3, 10)
    assert voc_ap(recall, precision, "11point") == pytest.approx(4 / 11)  # levels 0, .1, .2, .3


def test_no_detections_no_objects_and_unknown_metrics() -> None:
    recall, precision = precision_recall([], [], 3)
    assert voc_ap(recall, precision, "11point") == voc_ap(recall, precision, "area") == 0
    recall, precision = precision_recall([0], [1], 0)
    assert np.isnan(voc_ap(recall, precision, "11point"))
    assert np.isnan(voc_ap(recall, precision, "area"))
    with pytest.raises(ValueError, match="101point"):
        voc_ap([1.0], [1.0], "101point")


def test_second_hit_is_false_and_difficult_is_ignored() -> None:
    images = ["a", "a", "a", "b", "c"]
    hard = [20.0, 20, 30, 30]
    boxes = [overlap(0.9), TRUTH, hard, TRUTH, TRUTH]
    scores = [0.5, 0.9, 0.8, 0.7, 0.6]
    truths = {"a": ([TRUTH, hard], [0, 1]), "c": ([TRUTH], [0]), "d": ([TRUTH], [0])}
    matches = match_detections(images, boxes, scores, truths)
    assert matches.order.tolist() == [1, 2, 3, 4, 0]
    assert matches.true_positive.tolist() == [True, False, False, True, False]
    assert matches.false_positive.tolist() == [False, False, True, False, True]
    assert matches.num_positive == 3


def test_equal_scores_are_judged_in_the_given_order() -> None:
    truths = {"a": ([TRUTH], [0])}
    matches = match_detections(["a"] * 3, [overlap(0.6), TRUTH, TRUTH], [0.5] * 3, truths)
    assert matches.order.tolist() == [0, 1, 2]
    assert matches.true_positive.tolist() == [True, False, False]


def slow_match(
    images: list[str], boxes: np.ndarray, scores: np.ndarray, truths: dict
) -> tuple[list[bool], list[bool]]:
    taken, tp, fp = set(), [], []
    for i in sorted(range(len(images)), key=lambda i: (-scores[i], i)):
        true_boxes, difficult = truths.get(images[i], ([], []))
        iou = iou_matrix([boxes[i]], true_boxes)[0]
        good, skip = False, False
        if len(iou) and iou.max() > 0.5:
            j = int(iou.argmax())
            skip = bool(difficult[j])
            good = not skip and (images[i], j) not in taken
            taken.add((images[i], j))
        tp.append(good)
        fp.append(not good and not skip)
    return tp, fp


def test_matching_equals_the_slow_rule() -> None:
    rng = np.random.default_rng(2)

    def boxes_of(n: int) -> np.ndarray:
        low = rng.integers(0, 8, (n, 2))
        return np.concatenate([low, low + rng.integers(4, 10, (n, 2))], axis=1).astype(float)

    for _ in range(10):
        images = [str(i) for i in rng.integers(0, 5, 60)]
        boxes, scores = boxes_of(60), rng.integers(0, 10, 60) / 10
        truths = {str(i): (boxes_of(3), rng.random(3) < 0.3) for i in range(4)}
        matches = match_detections(images, boxes, scores, truths)
        expected = slow_match(images, boxes, scores, truths)
        assert matches.true_positive.tolist() == expected[0]
        assert matches.false_positive.tolist() == expected[1]
        assert matches.num_positive == sum(int((~d).sum()) for _, d in truths.values())


def test_nothing_detected_or_nothing_to_detect() -> None:
    nothing = match_detections([], np.zeros((0, 4)), [], {"a": ([TRUTH], [0])})
    assert (len(nothing.order), nothing.num_positive) == (0, 1)
    alone = match_detections(["a"], [TRUTH], [0.5], {"a": ([], [])})
    assert alone.false_positive.tolist() == [True]


def test_bad_detections_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'img7'"):
        match_detections(["img7"], [TRUTH], [np.nan], {})
    with pytest.raises(ValueError, match="equally many"):
        corloc_hits(["a"], [TRUTH], [0.5, 0.4], {})


def test_corloc_looks_at_the_best_detection_of_each_image() -> None:
    truths = {name: [TRUTH] for name in ("a", "b", "c")}
    images = ["a", "a", "b"]
    boxes = [overlap(0.6), overlap(0.3), overlap(0.5)]
    cat = corloc_hits(images, boxes, [0.9, 0.8, 0.7], truths)
    assert cat.tolist() == [True, False, False]
    dog = corloc_hits(["a"], [TRUTH], [0.1], {"a": [[90, 90, 99, 99], TRUTH]})
    assert np.mean([cat.mean(), dog.mean()]) == pytest.approx(0.6667, abs=1e-4)
    worse_first = corloc_hits(images, boxes, [0.7, 0.8, 0.7], truths)
    assert worse_first.tolist() == [False, False, False]


def test_weights_resample_a_curve_as_repeated_images_do() -> None:
    images, scores = ["a", "b", "a"], [0.9, 0.8, 0.7]
    boxes = [TRUTH, [50.0, 50, 60, 60], [70.0, 70, 80, 80]]
    truths = {"a": ([TRUTH], [0]), "b": ([TRUTH], [0])}
    counts = {"a": 2, "b": 1}
    matches = match_detections(images, boxes, scores, truths)
    weights = [counts[images[i]] for i in matches.order]
    curve = precision_recall(matches.true_positive, matches.false_positive, 3, weights)
    repeated = match_detections(
        ["a", "a2", "b", "a", "a2"],
        [boxes[0], boxes[0], boxes[1], boxes[2], boxes[2]],
        [0.9, 0.9, 0.8, 0.7, 0.7],
        {**truths, "a2": ([TRUTH], [0])},
    )
    copy = precision_recall(repeated.true_positive, repeated.false_positive, 3)
    assert voc_ap(*curve, "area") == pytest.approx(voc_ap(*copy, "area"))
    assert curve[0][-1] == copy[0][-1]


def test_resamples_are_repeatable() -> None:
    first = bootstrap_indices(10, 4, seed=3)
    assert first.shape == (4, 10)
    assert first.min() >= 0
    assert first.max() < 10
    np.testing.assert_array_equal(first, bootstrap_indices(10, 4, seed=3))
    assert not np.array_equal(first, bootstrap_indices(10, 4, seed=4))
    assert bootstrap_indices(0, 4, seed=0).shape == (4, 0)
