"""VOC average precision: hand examples, ties, difficult objects, small scores."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.evaluation import (
    Detections,
    GroundTruth,
    WeakVOCEvaluator,
    bootstrap_interval,
    compute_voc_ap,
    match_classes,
)

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [60, 60, 70, 70]


def truth(boxes, classes=None, difficult=None, crowd=None):
    count = len(boxes)
    return GroundTruth(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes if classes is not None else [0] * count, np.int64),
        np.array(difficult if difficult is not None else [0] * count, bool),
        np.array(crowd if crowd is not None else [0] * count, bool),
        (100, 100),
    )


def found(boxes, scores, classes=None):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes if classes is not None else [0] * len(boxes), np.int64),
    )


def average(truths, detections, metric="area", num_classes=1, **options):
    matches = match_classes(truths, detections, num_classes=num_classes, **options)
    return compute_voc_ap(matches, metric)


@pytest.mark.parametrize(("metric", "expected"), [("11point", 0.848485), ("area", 0.833333)])
def test_hit_miss_hit_of_two_objects(metric, expected):
    mean, per_class = average([truth([A, B])], [found([A, FAR, B], [0.9, 0.8, 0.7])], metric)
    assert mean == pytest.approx(expected, abs=1e-6)
    assert per_class.tolist() == pytest.approx([expected], abs=1e-6)


def test_scores_below_a_thousandth_keep_their_order():
    truths = [truth([A]), truth([A])]
    small = [found([FAR, A], [1e-7, 3e-7]), found([FAR, A], [1e-7, 2e-7])]
    assert average(truths, small)[0] == 1.0
    reverse = [found([FAR, A], [3e-7, 1e-7]), found([FAR, A], [2e-7, 1e-7])]
    assert average(truths, reverse)[0] < 0.6


def test_iou_of_exactly_one_half_is_no_hit():
    half = found([[0, 0, 10, 5]], [0.9])
    assert average([truth([A])], [half])[0] == 0.0
    assert average([truth([A])], [found([[0, 0, 10, 5.01]], [0.9])])[0] == 1.0


def test_inclusive_pixels_change_the_overlap():
    # 10 x 4 in 10 x 10 half-open is .4; with the kit's pixels 11 x 5 in 11 x 11 is .4545;
    # 10 x 5: .5 (no hit) becomes 66 / 121 = .545 (a hit).
    half = [found([[0, 0, 10, 5]], [0.9])]
    assert average([truth([A])], half, inclusive=True)[0] == 1.0


def test_second_detection_of_an_object_is_false():
    detections = [found([A, A, B], [0.9, 0.8, 0.7])]
    assert average([truth([A, B])], detections)[0] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_ties_follow_the_image_order_then_the_order_given():
    truths = [truth([A]), truth([A])]
    hit_first = [found([A, FAR], [0.5, 0.5]), found([FAR, A], [0.5, 0.5])]
    # Order: hit, miss, miss, hit -> precision 1, .5, .333, .5.
    assert average(truths, hit_first)[0] == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    # Order: miss, hit, hit, miss -> precision 0, .5, .667, .5; the envelope is .667.
    assert average(truths[::-1], hit_first[::-1])[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("flag", ["difficult", "crowd"])
def test_difficult_and_crowd_objects_count_neither_way(flag):
    truths = [truth([A, B], **{flag: [0, 1]})]
    assert average(truths, [found([B, A], [0.9, 0.8])])[0] == 1.0
    assert average(truths, [found([A], [0.8])])[0] == 1.0
    only = [truth([A], **{flag: [1]})]
    assert math.isnan(average(only, [found([A], [0.9])])[0])


def test_class_without_objects_is_nan_and_not_averaged():
    mean, per_class = average([truth([A], [0])], [found([A, B], [0.9, 0.8], [0, 1])], num_classes=3)
    assert mean == 1.0
    assert per_class[0] == 1.0 and np.isnan(per_class[1:]).all()


def test_objects_without_detections_have_ap_zero():
    assert average([truth([A])], [found([], [])])[0] == 0.0
    assert math.isnan(average([], [])[0])


def test_weights_equal_repeated_images():
    rng = np.random.default_rng(0)
    truths, detections = [], []
    for _ in range(6):
        objects = rng.integers(0, 50, (3, 2))
        boxes = np.concatenate([objects, objects + rng.integers(8, 20, (3, 2))], axis=1)
        truths.append(truth(boxes, rng.integers(0, 2, 3), rng.integers(0, 2, 3) == 1))
        shifted = np.repeat(boxes, 2, axis=0) + rng.integers(-3, 4, (6, 4))
        # No ties: copies of an image would interleave detections of equal score.
        detections.append(found(shifted, rng.uniform(0, 1, 6), rng.integers(0, 2, 6)))
    matches = match_classes(truths, detections, num_classes=2)
    counts = np.array([2, 0, 1, 3, 0, 1])
    rows = np.repeat(np.arange(6), counts)
    copies = match_classes(
        [truths[row] for row in rows], [detections[row] for row in rows], num_classes=2
    )
    for metric in ("11point", "area"):
        weighted = compute_voc_ap(matches, metric, counts)[1]
        repeated = compute_voc_ap(copies, metric)[1]
        assert 0 < repeated[0] < 1
        assert weighted == pytest.approx(repeated, abs=1e-12)


def test_bootstrap_is_repeatable_and_contains_the_figure():
    truths = [truth([A]) for _ in range(40)]
    detections = [found([A if n % 4 else FAR], [0.5]) for n in range(40)]
    matches = match_classes(truths, detections, num_classes=1)
    figure = compute_voc_ap(matches, "area")[0]
    one, two = (
        bootstrap_interval(
            lambda counts: compute_voc_ap(matches, "area", counts)[0], 40, resamples=200, seed=3
        )
        for _ in range(2)
    )
    assert one == two
    assert one[0] < figure < one[1]


def test_bootstrap_refuses_one_resample():
    with pytest.raises(ValueError, match="2 or more resamples"):
        bootstrap_interval(lambda counts: 0.0, 3, resamples=1)


def record(image_id, boxes, classes, difficult=None):
    flags = difficult or [0] * len(boxes)
    return {
        "image_id": image_id,
        "height": 100,
        "width": 100,
        "annotations": [
            {
                "bbox": b,
                "bbox_mode": BoxMode.XYXY_ABS,
                "category_id": c,
                "iscrowd": 0,
                "difficult": d,
            }
            for b, c, d in zip(boxes, classes, flags, strict=True)
        ],
    }


def output(boxes, scores, classes):
    instances = Instances((100, 100))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": instances}


RECORDS = [record("a", [A, B], [0, 0]), record("b", [A], [1])]


def test_evaluator_reports_both_metrics_and_the_interval():
    evaluator = WeakVOCEvaluator(RECORDS, ["cat", "dog", "cow"], metric="11point", bootstrap=50)
    evaluator.reset()
    evaluator.process([{"image_id": "b"}], [output([A], [0.5], [1])])
    evaluator.process([{"image_id": "a"}], [output([A, FAR, B], [0.9, 0.8, 0.7], [0, 0, 0])])
    figures = evaluator.evaluate()["bbox"]
    assert figures["AP50"] == pytest.approx((84.8485 + 100) / 2, abs=1e-3)
    assert figures["AP50"] == figures["AP50_11point"]
    assert figures["AP50_area"] == pytest.approx((83.3333 + 100) / 2, abs=1e-3)
    assert figures["AP50-cat"] == pytest.approx(84.8485, abs=1e-3)
    assert math.isnan(figures["AP50-cow"]) and figures["num_classes"] == 2
    assert figures["AP50_low"] <= figures["AP50"] <= figures["AP50_high"]


def test_evaluator_refuses_what_would_be_wrong():
    evaluator = WeakVOCEvaluator(RECORDS, ["cat", "dog"])
    with pytest.raises(ValueError, match="'c' is not among the 2 images"):
        evaluator.process([{"image_id": "c"}], [output([], [], [])])
    with pytest.raises(ValueError, match="classes up to 5"):
        evaluator.process([{"image_id": "a"}], [output([A], [0.5], [5])])
    with pytest.raises(ValueError, match="not finite"):
        evaluator.process([{"image_id": "a"}], [output([A], [float("nan")], [0])])
    evaluator.process([{"image_id": "a"}], [output([A], [0.5], [0])])
    with pytest.raises(ValueError, match="twice"):
        evaluator.process([{"image_id": "a"}], [output([A], [0.5], [0])])
    with pytest.raises(ValueError, match="1 of 2 images have no prediction, the first is 'b'"):
        evaluator.evaluate()
    with pytest.raises(ValueError, match="VOC metric"):
        WeakVOCEvaluator(RECORDS, ["cat", "dog"], metric="101point")
    with pytest.raises(ValueError, match="no annotations"):
        WeakVOCEvaluator([{"image_id": "a", "image_labels": [0]}], ["cat"])
    with pytest.raises(ValueError, match="classes"):
        WeakVOCEvaluator(RECORDS, ["cat"])
    with pytest.raises(ValueError, match="occurs twice"):
        WeakVOCEvaluator([RECORDS[0], RECORDS[0]], ["cat"])


def test_integer_ids_of_the_loader_match_text_ids():
    evaluator = WeakVOCEvaluator([record("7", [A], [0])], ["cat"])
    evaluator.process([{"image_id": 7}], [output([A], [0.5], [0])])
    assert evaluator.evaluate()["bbox"]["AP50"] == 100.0
