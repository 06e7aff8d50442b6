"""COCO AP from memory: against detectron2's evaluator, difficult objects, empty results."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.evaluation import CocoBoxEvaluator, Detections, GroundTruth, compute_coco_ap

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
