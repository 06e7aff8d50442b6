"""COCO AP from memory: against detectron2's evaluator, difficult objects, empty results."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.evaluation import (
    CocoBoxEvaluator,
    Detections,
    GroundTruth,
    coco_intervals,
    compute_coco_ap,
)
from weaksam_d2.ops import bootstrap_indices

NAMES = ["cat", "dog", "cow"]


@pytest.fixture
def split():
    rng = np.random.default_rng(4)
    records, outputs = [], []
    for number in range(1, 9):
        corner = rng.uniform(0, 60, (4, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(5, 90, (4, 2))], axis=1)
        classes = rng.integers(0, 2, 4)
        records.append(
            {
                "image_id": str(number),
                "file_name": f"{number}.jpg",
                "height": 150,
                "width": 150,
                "annotations": [
                    {"bbox": b, "bbox_mode": BoxMode.XYXY_ABS, "category_id": int(c), "iscrowd": 0}
                    for b, c in zip(boxes.tolist(), classes, strict=True)
                ],
            }
        )
        instances = Instances((150, 150))
        jitter = np.repeat(boxes, 2, axis=0) + rng.normal(0, 4, (8, 4))
        instances.pred_boxes = Boxes(torch.tensor(jitter, dtype=torch.float32))
        instances.scores = torch.tensor(rng.uniform(0, 1, 8), dtype=torch.float32)
        instances.pred_classes = torch.tensor(np.repeat(classes, 2))
        outputs.append({"instances": instances})
    return records, outputs


def test_agrees_with_detectron2(split, tmp_path):
    records, outputs = split
    name = "evaluation_test_coco"
    numbered = [{**record, "image_id": int(record["image_id"])} for record in records]
    DatasetCatalog.register(name, lambda: numbered)
    MetadataCatalog.get(name).set(thing_classes=NAMES)
    try:
        stock = COCOEvaluator(name, output_dir=str(tmp_path), allow_cached_coco=False)
        stock.reset()
        stock.process(numbered, outputs)
        expected = stock.evaluate()["bbox"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    evaluator = CocoBoxEvaluator(records, NAMES)
    evaluator.process(records, outputs)
    figures = evaluator.evaluate()["bbox"]
    assert 5 < figures["AP"] < 95
    for key in ("AP", "AP50", "AP75", "AP-cat", "AP-dog"):
        # detectron2 rounds the coordinates of its ground truth to three decimals.
        assert figures[key] == pytest.approx(expected[key], abs=0.05), key
    assert math.isnan(figures["AP-cow"])
    assert json.loads(json.dumps(figures["AP50"])) == figures["AP50"]


def one(boxes, difficult, scores=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.zeros(len(boxes), np.int64)
    if scores is not None:
        return Detections(boxes, np.array(scores, np.float32), classes)
    flags = np.array(difficult, bool)
    return GroundTruth(boxes, classes, flags, np.zeros(len(boxes), bool), (99, 99))


def test_difficult_objects_are_ignored():
    truth = [one([[0, 0, 10, 10], [50, 50, 80, 80]], [0, 1])]
    both = [one([[50, 50, 80, 80], [0, 0, 10, 10]], None, [0.9, 0.8])]
    assert compute_coco_ap(truth, both, num_classes=1)["AP"] == pytest.approx(100)
    wrong = [one([[20, 20, 45, 45], [0, 0, 10, 10]], None, [0.9, 0.8])]
    assert compute_coco_ap(truth, wrong, num_classes=1)["AP"] == pytest.approx(50)


def test_no_detection_is_ap_zero_and_no_object_is_nan():
    empty = [one([], None, [])]
    figures = compute_coco_ap([one([[0, 0, 9, 9]], [0])], empty, num_classes=2)
    assert figures["AP"] == figures["AP50"] == 0.0
    assert figures["per_class"][0] == 0.0 and math.isnan(figures["per_class"][1])
    assert math.isnan(compute_coco_ap([one([], [])], empty, num_classes=1)["AP"])


def crowded_split(seed, images=14):
    """Objects of two classes, some difficult or crowds, and detections with ties among them."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 4))
        corner = rng.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(10, 150, (count, 2))], axis=1)
        classes = rng.integers(0, 2, count)
        difficult, crowd = rng.random(count) < 0.2, rng.random(count) < 0.1
        truths.append(GroundTruth(boxes.astype(np.float32), classes, difficult, crowd, (400, 400)))
        rows = rng.integers(0, count, 6) if count else np.zeros(0, int)
        found = (boxes[rows] + rng.normal(0, 6, (len(rows), 4))).astype(np.float32)
        scores = (rng.permutation(len(rows)) / 8).astype(np.float32)
        labels = np.where(rng.random(len(rows)) < 0.7, classes[rows], 2)
        detections.append(Detections(found, scores, labels))
    return truths, detections


@pytest.mark.parametrize("seed", range(3))
def test_faster_coco_eval_gives_the_same_figures(seed):
    pytest.importorskip("faster_coco_eval")
    truths, detections = crowded_split(seed)
    usual = compute_coco_ap(truths, detections, num_classes=4)
    faster = compute_coco_ap(truths, detections, num_classes=4, library="faster")
    np.testing.assert_allclose(faster.pop("per_class"), usual.pop("per_class"), atol=1e-9)
    assert usual["AP"] > 1
    assert faster == pytest.approx(usual, abs=1e-9, nan_ok=True)


def test_a_library_that_is_missing_is_named_before_inference(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"weaksam_d2\[fasteval\]"):
        CocoBoxEvaluator([], NAMES, library="faster")
    with pytest.raises(ValueError, match="TEST.COCO_EVAL is 'slower', expected one of"):
        CocoBoxEvaluator([], NAMES, library="slower")


def test_intervals_are_those_of_repeated_images():
    truths, detections = crowded_split(0, images=7)
    values = []
    for rows in bootstrap_indices(7, 12, seed=2):
        again = [sorted(rows.tolist())] * 2
        copies = [truths[row] for row in again[0]], [detections[row] for row in again[1]]
        figures = compute_coco_ap(*copies, num_classes=4)
        values.append((figures["AP"], figures["AP50"]))
    found = coco_intervals(truths, detections, num_classes=4, resamples=12, seed=2)
    low, high = np.percentile(np.array(values), [2.5, 97.5], axis=0)
    assert 0 < low[0] < high[0]
    expected = {"AP_low": low[0], "AP_high": high[0], "AP50_low": low[1], "AP50_high": high[1]}
    # Copies of an image share a rank in ours, so that ties within it change by a hair.
    assert found == pytest.approx(expected, abs=1e-6)


def test_the_evaluator_gives_intervals_where_they_are_asked_for(split):
    records, outputs = split
    evaluator = CocoBoxEvaluator(records, NAMES, bootstrap=20)
    evaluator.process(records, outputs)
    figures = evaluator.evaluate()["bbox"]
    assert figures["AP_low"] < figures["AP"] < figures["AP_high"]
    assert figures["AP50_low"] < figures["AP50"] < figures["AP50_high"]
    nothing = [one([], None, [])] * 2
    empty = coco_intervals([one([[0, 0, 9, 9]], [0])] * 2, nothing, num_classes=1, resamples=5)
    assert set(empty.values()) == {0.0}
