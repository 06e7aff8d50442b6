"""Recall of proposals: the example of both matchings, empty images, groups, equal counts."""

import math

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.evaluation import (
    GroundTruth,
    ProposalRecallEvaluator,
    average_recall,
    compute_recall,
    covered_iou,
    evaluate_store,
    recall_by_count,
    recall_curve,
    recall_groups,
    recall_intervals,
)
from weaksam_d2.ops import bootstrap_indices

OBJECTS = np.array([[0, 0, 10, 10], [0, 0, 12, 10], [50, 50, 60, 60]], np.float32)
BOXES = np.array([[0, 0, 11, 10], [52, 50, 62, 60]], np.float32)
NONE = np.zeros((0, 4), np.float32)


@pytest.mark.parametrize(
    ("match", "expected"),
    [("one2one", [200 / 3, 100 / 3, 100 / 3]), ("any", [100.0, 200 / 3, 200 / 3])],
)
def test_example_of_three_objects_and_two_proposals(match, expected):
    figures = compute_recall([OBJECTS], [BOXES], (0.5, 0.75, 0.9), match)
    assert [figures[k] for k in ("recall50", "recall75", "recall90")] == pytest.approx(expected)
    assert figures["per_image"] == 2


def test_iou_of_exactly_one_half_is_covered():
    figures = compute_recall([[[0, 0, 10, 10]]], [[[0, 0, 10, 5]]], (0.5,))
    assert figures["recall50"] == 100.0


def test_image_without_proposals_has_missed_its_objects():
    figures = compute_recall([OBJECTS[:1], OBJECTS[:1]], [OBJECTS[:1], NONE], (0.5,))
    assert figures == {"recall50": 50.0, "per_image": 0.5}


def test_image_without_objects_changes_only_the_count():
    figures = compute_recall([OBJECTS[:1], NONE], [OBJECTS[:1], BOXES], (0.5,))
    assert figures == {"recall50": 100.0, "per_image": 1.5}


def test_split_without_objects_is_nan():
    figures = compute_recall([NONE], [BOXES], (0.5,))
    assert math.isnan(figures["recall50"]) and figures["per_image"] == 2


def test_wrong_arguments_name_themselves():
    with pytest.raises(ValueError, match="'one2one'.*got 'best'|got 'best'"):
        covered_iou([NONE], [NONE], match="best")
    with pytest.raises(ValueError, match="2 images but proposals of 1"):
        covered_iou([NONE, NONE], [NONE], match="any")


def test_more_proposals_than_a_block_give_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 80, (40, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (40, 2))], axis=1)
    expected = covered_iou([boxes[:6] + 2], [boxes], match="one2one")
    monkeypatch.setattr("weaksam_d2.evaluation.recall._BLOCK", 7)
    assert covered_iou([boxes[:6] + 2], [boxes], match="one2one").tolist() == expected.tolist()


def truth(boxes, classes, size):
    count = len(boxes)
    flags = np.zeros(count, bool)
    return GroundTruth(np.float32(boxes), np.int64(classes), flags, flags, size)


def test_groups_by_size_and_class():
    boxes = [[0, 0, 10, 10], [0, 0, 40, 40], [0, 0, 96, 96]]
    one = truth(boxes, [0, 0, 1], (480, 640))
    covered = np.array([0.6, 0.4, 0.8])
    groups = recall_groups(covered, [one], ious=(0.5,), class_names=["cat", "dog", "cow"])
    assert groups["recall50_small"] == 100.0
    assert groups["recall50_medium"] == 0.0
    assert groups["recall50_large"] == 100.0
    assert groups["recall50-cat"] == 50.0 and groups["recall50-dog"] == 100.0
    assert math.isnan(groups["recall50-cow"])
    # In an image of a quarter of the area, 40 x 40 is as large as 80 x 80, 96 as 192 squared.
    small_image = truth([boxes[0]], [0], (48, 64))
    relative = recall_groups(np.array([1.0]), [small_image], ious=(0.5,), relative=True)
    assert relative["recall50_large"] == 100.0 and math.isnan(relative["recall50_small"])
    with pytest.raises(ValueError, match="2 covered objects"):
        recall_groups(covered[:2], [one])


def test_average_recall_uses_the_first_boxes():
    boxes = np.array([[50, 50, 60, 60], [0, 0, 10, 10]], np.float32)
    figures = average_recall([OBJECTS[:1]], [boxes], (1, 2))
    assert figures == {"AR@1": 0.0, "AR@2": 100.0}
    # IoU .9091 passes .5 ... .9: nine of ten thresholds.
    assert average_recall([OBJECTS[:1]], [BOXES], (5,))["AR@5"] == pytest.approx(90.0)


def test_curves_fall_with_iou_and_rise_with_count():
    curve = recall_curve(covered_iou([OBJECTS], [BOXES], match="one2one"), points=6)
    assert curve["iou"] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert curve["recall"] == pytest.approx([200 / 3, 200 / 3, 100 / 3, 100 / 3, 100 / 3, 0])
    counts = recall_by_count([OBJECTS], [BOXES], (1, 2, 50, 100))
    assert counts["count"] == [1.0, 2.0]
    assert counts["recall"] == pytest.approx([100 / 3, 200 / 3])


def record(image_id, boxes, crowd=0, difficult=0):
    objects = [
        {
            "bbox": list(map(float, box)),
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "iscrowd": crowd,
            "difficult": difficult,
        }
        for box in boxes
    ]
    return {"image_id": image_id, "height": 100, "width": 100, "annotations": objects}


def test_store_with_equal_counts(tmp_path):
    with ProposalStoreWriter(tmp_path / "store") as writer:
        writer.add("a", np.concatenate([BOXES[1:], OBJECTS]), image_size=(100, 100))
        writer.add("b", NONE, image_size=(100, 100))
    store = ProposalStore.open(tmp_path / "store")
    records = [record("a", OBJECTS, difficult=1), record("b", OBJECTS[:1])]
    records[1]["annotations"] += record("b", [[0, 0, 99, 99]], crowd=1)["annotations"]
    assert evaluate_store(store, records, ious=(0.9,)) == {"recall90": 75.0, "per_image": 2.0}
    limited = evaluate_store(store, records, ious=(0.5, 0.9), limit=[2, 7])
    assert limited == {"recall50": 50.0, "recall90": 25.0, "per_image": 1.0}
    with pytest.raises(ValueError, match="1 counts for 2 images"):
        evaluate_store(store, records, limit=[2])
    with pytest.raises(KeyError, match="c"):
        evaluate_store(store, [record("c", OBJECTS)])


def test_evaluator_of_a_models_proposals():
    evaluator = ProposalRecallEvaluator([record("a", OBJECTS), record("b", [])], ious=(0.5,))
    evaluator.reset()
    proposals = Instances((100, 100))
    proposals.proposal_boxes = Boxes(torch.from_numpy(BOXES))
    evaluator.process([{"image_id": "a"}], [{"proposals": proposals}])
    figures = evaluator.evaluate()["box_proposals"]
    assert figures == {"recall50": pytest.approx(200 / 3), "per_image": 1.0}
    with pytest.raises(ValueError, match="'z' is not in the split"):
        evaluator.process([{"image_id": "z"}], [{"proposals": proposals}])


@pytest.mark.parametrize("match", ["one2one", "any"])
def test_intervals_are_those_of_repeated_images(match):
    objects = [OBJECTS, OBJECTS[:1], NONE, OBJECTS[2:]]
    proposals = [BOXES, NONE, BOXES, BOXES + 1]
    resampled = []
    for rows in bootstrap_indices(4, 30, seed=6):
        copies = [objects[row] for row in rows], [proposals[row] for row in rows]
        resampled.append(compute_recall(*copies, (0.5, 0.75), match))
    found = recall_intervals(objects, proposals, (0.5, 0.75), match, resamples=30, seed=6)
    for key in ("recall50", "recall75"):
        values = np.array([figures[key] for figures in resampled])
        low, high = np.nanpercentile(values, [2.5, 97.5])
        assert low < high
        assert (found[f"{key}_low"], found[f"{key}_high"]) == pytest.approx((low, high))


def test_evaluator_gives_intervals_where_they_are_asked_for():
    records = [record("a", OBJECTS), record("b", OBJECTS)]
    evaluator = ProposalRecallEvaluator(records, ious=(0.5,), bootstrap=10)
    proposals = Instances((100, 100))
    proposals.proposal_boxes = Boxes(torch.from_numpy(BOXES))
    evaluator.process([{"image_id": "a"}], [{"proposals": proposals}])
    figures = evaluator.evaluate()["box_proposals"]
    assert figures["recall50_low"] == 0.0
    assert figures["recall50_high"] == pytest.approx(200 / 3)
