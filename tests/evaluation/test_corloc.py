"""CorLoc: hand examples and what counts as an object."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.evaluation import CorLocEvaluator, Detections, GroundTruth, compute_corloc

A, FAR = [0, 0, 10, 10], [60, 60, 70, 70]


def truth(boxes, classes, crowd=None):
    count = len(boxes)
    return GroundTruth(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.ones(count, bool),  # difficult ones count as well
        np.array(crowd if crowd is not None else [0] * count, bool),
        (100, 100),
    )


def found(boxes, scores, classes):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
    )


def rate(hits, present):
    return (hits.sum(axis=0) / present.sum(axis=0)).tolist()


def test_three_images_with_one_hit_give_a_third():
    truths = [truth([A], [0])] * 3
    detections = [
        found([[0, 0, 10, 6]], [0.9], [0]),  # IoU .6
        found([[0, 0, 10, 5]], [0.9], [0]),  # IoU .5 is no hit
        found([], [], []),
    ]
    assert rate(*compute_corloc(truths, detections, num_classes=1)) == pytest.approx([1 / 3])


def test_only_the_best_detection_of_the_class_counts():
    truths = [truth([A], [0])]
    worse = [found([FAR, A, A], [0.9, 0.8, 1.0], [0, 0, 1])]
    assert rate(*compute_corloc(truths, worse, num_classes=1)) == [0.0]
    tie = [found([A, FAR], [0.9, 0.9], [0, 0])]
    assert rate(*compute_corloc(truths, tie, num_classes=1)) == [1.0]
    tiny = [found([FAR, A], [1e-8, 2e-8], [0, 0])]
    assert rate(*compute_corloc(truths, tiny, num_classes=1)) == [1.0]


def test_a_crowd_makes_no_class_present():
    hits, present = compute_corloc(
        [truth([A, A], [0, 1], crowd=[1, 0])], [found([A], [0.9], [0])], num_classes=2
    )
    assert present.tolist() == [[False, True]] and not hits.any()


def record(image_id, classes):
    mode = BoxMode.XYXY_ABS
    objects = [{"bbox": A, "bbox_mode": mode, "category_id": c, "difficult": 1} for c in classes]
    return {"image_id": image_id, "annotations": objects}


def test_evaluator_averages_classes_that_occur():
    records = [record("1", [0, 1]), record("2", [0]), record("3", [0])]
    evaluator = CorLocEvaluator(records, ["cat", "dog", "cow"], bootstrap=20)
    evaluator.reset()
    for image_id, cat in (("1", A), ("2", FAR), ("3", FAR)):
        instances = Instances((100, 100))
        instances.pred_boxes = Boxes(torch.tensor([cat, A], dtype=torch.float32))
        instances.scores = torch.tensor([0.5, 0.5])
        instances.pred_classes = torch.tensor([0, 1])
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    figures = evaluator.evaluate()["corloc"]
    assert figures["CorLoc-cat"] == pytest.approx(100 / 3)
    assert figures["CorLoc-dog"] == 100.0
    assert math.isnan(figures["CorLoc-cow"])
    assert figures["CorLoc"] == pytest.approx(66.6667, abs=1e-3)
    assert figures["num_classes"] == 2
    assert figures["CorLoc_low"] <= figures["CorLoc"] <= figures["CorLoc_high"]
