"""The confusion matrix of label maps and its figures, against loops and worked examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from weaksam_d2.ops import (
    ClassCounts,
    class_counts,
    confusion_matrix,
    false_discovery_rate,
    ignored_ratio,
    iou_per_class,
    mean_over_classes,
    miss_rate,
    precision_per_class,
    recall_per_class,
    threshold_histogram,
    threshold_matrices,
)

TRUTH = np.array([[0, 0, 1, 1, 2, 255]], np.uint8)
FIRST = np.array([[0, 1, 1, 1, 0, 2]], np.uint8)
SECOND = np.array([[0, 255, 1, 1, 0, 2]], np.uint8)


def test_the_example_of_the_specification() -> None:
    matrix = confusion_matrix(TRUTH, FIRST, 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0]]
    iou = iou_per_class(class_counts(matrix))
    assert iou == pytest.approx([1 / 3, 2 / 3, 0])
    assert 100 * mean_over_classes(iou) == pytest.approx(33.33, abs=0.005)
    assert ignored_ratio(matrix) == 0


def test_a_prediction_without_a_label_is_a_miss_and_no_false_alarm() -> None:
    matrix = confusion_matrix(TRUTH, SECOND, 3)
    assert matrix.tolist() == [[1, 0, 0, 1], [0, 2, 0, 0], [1, 0, 0, 0]]
    counts = class_counts(matrix)
    assert iou_per_class(counts) == pytest.approx([1 / 3, 1, 0])
    assert 100 * mean_over_classes(iou_per_class(counts)) == pytest.approx(44.44, abs=0.005)
    assert ignored_ratio(matrix) == 1 / 5
    assert precision_per_class(counts)[:2] == pytest.approx([1 / 2, 1])
    assert np.isnan(precision_per_class(counts)[2])  # never predicted where it counts
    assert recall_per_class(counts) == pytest.approx([1 / 2, 1, 0])
    assert miss_rate(counts) == pytest.approx([1 / 2, 0, 1])
    assert false_discovery_rate(counts)[:2] == pytest.approx([1 / 2, 0])


def test_classes_of_neither_map_and_maps_without_a_label_are_left_out() -> None:
    none = np.full((2, 2), 255, np.uint8)
    matrix = confusion_matrix(none, np.zeros((2, 2), np.uint8), 3)
    assert not matrix.any() and np.isnan(ignored_ratio(matrix))
    assert np.isnan(mean_over_classes(iou_per_class(class_counts(matrix))))
    # Predicted and never there: it counts, with 0. Neither there nor predicted: it does not.
    matrix = confusion_matrix(np.zeros((1, 2), np.uint8), np.array([[0, 2]], np.uint8), 3)
    iou = iou_per_class(class_counts(matrix))
    assert iou[[0, 2]] == pytest.approx([0.5, 0]) and np.isnan(iou[1])
    assert mean_over_classes(iou) == pytest.approx(0.25)


def labels(num_labels: int) -> st.SearchStrategy[np.ndarray]:
    values = st.sampled_from([*range(num_labels), 255])
    return hnp.arrays(np.uint8, (5, 7), elements=values)


@given(st.integers(1, 5).flatmap(lambda n: st.tuples(st.just(n), labels(n), labels(n))))
def test_counts_are_those_of_a_loop_over_pixels(case: tuple[int, np.ndarray, np.ndarray]) -> None:
    number, truth, prediction = case
    expected = [[0] * (number + 1) for _ in range(number)]
    for true, found in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if true != 255:
            expected[true][number if found == 255 else found] += 1
    matrix = confusion_matrix(truth, prediction, number)
    assert matrix.tolist() == expected
    assert confusion_matrix(truth.astype(np.int64), prediction, number).tolist() == expected
    iou = iou_per_class(class_counts(matrix))
    counted = truth != 255
    for c in range(number):
        both = int(((truth == c) & (prediction == c)).sum())
        either = int((((truth == c) | (prediction == c)) & counted).sum())
        assert (np.isnan(iou[c]) and not either) or iou[c] == both / either


@given(st.lists(st.tuples(labels(3), labels(3)), min_size=1, max_size=4))
def test_counts_of_images_sum_to_those_of_the_set(pairs: list[tuple[np.ndarray, ...]]) -> None:
    matrices = np.stack([confusion_matrix(truth, found, 3) for truth, found in pairs])
    whole = class_counts(matrices.sum(axis=0))
    for part, total in zip(class_counts(matrices), whole, strict=True):
        assert part.shape == (len(pairs), 3) and (part.sum(axis=0) == total).all()


@pytest.mark.parametrize("what", ["true", "predicted"])
@pytest.mark.parametrize(("value", "kind"), [(21, np.uint8), (254, np.uint8), (-1, np.int64)])
def test_a_value_that_is_no_label_is_refused(what: str, value: int, kind: type) -> None:
    good, bad = np.full((2, 2), 255, np.uint8), np.zeros((2, 2), kind)
    bad[1, 0] = value
    pair = (bad, good) if what == "true" else (good, bad)  # not even where nothing is counted
    with pytest.raises(ValueError, match=rf"{what} labels hold .*{value}"):
        confusion_matrix(*pair, 21)


def test_other_shapes_types_and_numbers_are_refused() -> None:
    small, large = np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8)
    with pytest.raises(ValueError, match="must have the size"):
        confusion_matrix(small, large, 2)
    with pytest.raises(ValueError, match="float32, expected integers"):
        confusion_matrix(small, small.astype(np.float32), 2)
    with pytest.raises(ValueError, match="do not fit"):
        confusion_matrix(small, small, 256)


def test_rates_are_the_complements_of_precision_and_recall() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 9, (6, 4, 5))
    counts = class_counts(matrix)
    assert isinstance(counts, ClassCounts)
    assert miss_rate(counts) + recall_per_class(counts) == pytest.approx(1, nan_ok=True)
    assert false_discovery_rate(counts) + precision_per_class(counts) == pytest.approx(1)


@given(labels(3), labels(3), st.integers(0, 9))
def test_one_histogram_holds_the_matrices_of_all_thresholds(
    truth: np.ndarray, best: np.ndarray, seed: int
) -> None:
    best = np.where(best == 255, 1, best).astype(np.uint8)
    # Scores that are equal to a threshold are not above it.
    score = np.random.default_rng(seed).integers(0, 11, truth.shape).astype(np.float32) / 10
    score[best == 0] = 0
    thresholds = np.arange(10) / 10
    matrices = threshold_matrices(threshold_histogram(truth, best, score, thresholds, 3))
    for threshold, matrix in zip(thresholds, matrices, strict=True):
        label = np.where(score > np.float32(threshold), best, 0).astype(np.uint8)
        assert (matrix == confusion_matrix(truth, label, 3)).all()


def test_scores_and_thresholds_must_be_numbers_in_order() -> None:
    label, score = np.ones((2, 2), np.uint8), np.zeros((2, 2), np.float32)
    with pytest.raises(ValueError, match="thresholds must rise"):
        threshold_histogram(label, label, score, np.array([0.5, 0.5]), 2)
    score[1, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        threshold_histogram(label, label, score, np.array([0.5]), 2)
