"""Tag average precision."""

import itertools
import math

import numpy as np
import pytest
import torch

from weaksam_d2.evaluation import MultilabelEvaluator, compute_multilabel_ap


def test_hand_example():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    labels = np.array([[True], [False], [True], [False]])
    assert compute_multilabel_ap(scores, labels)[0] == pytest.approx((1 + 2 / 3) / 2)


def test_equal_scores_do_not_depend_on_the_order():
    labels = [True, False, False, True]
    scores = [0.5, 0.5, 0.5, 0.9]
    values = {
        round(
            float(
                compute_multilabel_ap(
                    np.array([[scores[i]] for i in order]), np.array([[labels[i]] for i in order])
                )[0]
            ),
            12,
        )
        for order in itertools.permutations(range(4))
    }
    assert values == {0.75}  # precision 1 for the first positive, 2/4 for the tied one


def test_class_without_a_positive_is_nan():
    values = compute_multilabel_ap(np.zeros((2, 2)), np.array([[True, False], [False, False]]))
    assert values[0] == 0.5 and math.isnan(values[1])
    with pytest.raises(ValueError, match=r"must both be \(I, C\)"):
        compute_multilabel_ap(np.zeros((2, 2)), np.zeros((2, 3), bool))


def test_evaluator():
    records = [
        {"image_id": "a", "image_labels": [0]},
        {"image_id": "b", "image_labels": []},
        {"image_id": "c", "image_labels": [0, 1]},
    ]
    evaluator = MultilabelEvaluator(records, ["cat", "dog", "cow"])
    evaluator.reset()
    logits = {"c": [-1.0, 3.0, 0.0], "a": [2.0, 2.0, 0.0], "b": [0.0, 1.0, 0.0]}
    for image_id, row in logits.items():
        evaluator.process([{"image_id": image_id}], [{"class_logits": torch.tensor(row)}])
    figures = evaluator.evaluate()["tags"]
    assert figures["AP-cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert figures["AP-dog"] == 100.0 and math.isnan(figures["AP-cow"])
    assert figures["mAP"] == pytest.approx((100 * (1 + 2 / 3) / 2 + 100) / 2)
    assert figures["num_classes"] == 2
    with pytest.raises(ValueError, match="3 finite values"):
        evaluator.process([{"image_id": "a"}], [{"class_logits": torch.zeros(2)}])
    with pytest.raises(ValueError, match="'q' is not in the split"):
        evaluator.process([{"image_id": "q"}], [{"class_logits": torch.zeros(3)}])


def test_missing_images_and_records_without_tags_are_errors():
    evaluator = MultilabelEvaluator([{"image_id": "a", "image_labels": [0]}], ["cat"])
    with pytest.raises(ValueError, match="1 of 1 images have no class_logits"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="no image_labels"):
        MultilabelEvaluator([{"image_id": "a", "annotations": []}], ["cat"])
