"""Which pseudo boxes are wrong, and what is binned and drawn of their regions."""

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.engine.analysis.region_recorder import LossRecorder, RegionTable, load_detector
from weaksam_d2.engine.analysis.roi_loss_analysis import (
    error_panels,
    error_tables,
    flag_errors,
    pseudo_records,
)
from weaksam_d2.engine.cli import base_config
from weaksam_d2.retrain import RoIDropFastRCNNOutputLayers, RoIDropSettings
from weaksam_d2.visualization import ErrorBins


def record(*objects: tuple[list[float], int], mode: Any = BoxMode.XYXY_ABS, **more: Any) -> Any:
    rows = [
        {"bbox": box, "bbox_mode": mode, "category_id": label, **more} for box, label in objects
    ]
    return {"image_id": "a", "annotations": rows}


def flags(pseudo: Any, truth: Any, iou: float = 0.7) -> list[tuple[int, int]]:
    (found,) = flag_errors([pseudo], [truth], iou=iou)
    return [(row["wrong"], row["wrong_same_class"]) for row in found["annotations"]]


def test_a_box_is_wrong_if_it_is_near_no_true_box_of_any_or_of_its_class() -> None:
    truth = record(([0, 0, 10, 10], 0), ([50, 50, 20, 20], 1), mode=BoxMode.XYWH_ABS)
    pseudo = record(
        ([0, 0, 10, 7], 0),  # IoU exactly .7 is right
        ([0, 0, 10, 6.9], 0),
        ([50, 50, 70, 70], 0),  # right place, wrong class
        ([20, 20, 30, 30], 1),
    )
    assert flags(pseudo, truth) == [(0, 0), (1, 1), (0, 1), (1, 1)]
    assert flags(pseudo, truth, iou=0.65)[1] == (0, 0)
    assert "wrong" not in pseudo["annotations"][0], "the records of others stay as they are"


def test_crowd_regions_and_images_without_objects_make_no_box_right() -> None:
    pseudo = record(([0, 0, 10, 10], 0))
    assert flags(pseudo, record()) == [(1, 1)]
    assert flags(pseudo, record(([0, 0, 10, 10], 0), iscrowd=1)) == [(1, 1)]
    assert flags(pseudo, record(([0, 0, 10, 10], 0), difficult=1)) == [(0, 0)]
    assert flags(record(), record(([0, 0, 10, 10], 0))) == []
    with pytest.raises(ValueError, match="image 'a' has pseudo boxes and no record"):
        flag_errors([pseudo], [], iou=0.7)


def make_table() -> RegionTable:
    foreground = np.array([True, True, True, True, False, False])
    wrong = np.array([False, False, True, True, False, False])
    return RegionTable(
        cls_loss=np.array([0.0, 1, 2, 10, 7, 9]),
        box_loss=np.array([3.0, 3, 3, 3, 0, 0]),
        foreground=foreground,
        wrong=wrong,
        wrong_same_class=wrong | foreground,
        images=2,
    )


def test_foreground_and_background_are_binned_apart() -> None:
    found = error_tables(make_table())
    cls = found["foreground"]["cls"]
    assert (cls["low"], cls["high"]) == (0, 10)
    assert [place for place, count in enumerate(cls["count"]) if count] == [0, 2, 4, 19]
    assert [r for r in cls["wrong"]["error_rate"] if r is not None] == [0, 0, 1, 1]
    assert [r for r in cls["wrong_same_class"]["error_rate"] if r is not None] == [1] * 4
    assert cls["wrong"]["spearman"] == pytest.approx(4 / 20**0.5, abs=1e-6)
    assert cls["wrong_same_class"]["spearman"] is None
    assert found["foreground"]["reg"]["count"] == [4] + [0] * 19
    assert found["background"]["cls"]["count"] == [1] + [0] * 18 + [1]
    assert found["regions"] == {"foreground": 4, "background": 2}
    assert found["error_rate"] == {"wrong": 0.5, "wrong_same_class": 1.0}


def test_each_loss_has_a_panel_and_empty_bins_stay_empty() -> None:
    panels = error_panels(error_tables(make_table(), bins=10))
    assert [type(panel) for panel in panels] == [ErrorBins] * 3
    rates = panels[0].rates["no true box at this IoU"]
    assert np.isnan(rates[3]) and rates[9] == 1
    assert panels[2].rates == {}


def test_nothing_sampled_is_an_empty_table() -> None:
    none = np.zeros(0)
    table = RegionTable(none, none, none.astype(bool), none.astype(bool), none.astype(bool), 0)
    found = error_tables(table, bins=4)
    assert found["foreground"]["cls"]["count"] == [0] * 4 and found["error_rate"] == {}
    assert found["foreground"]["cls"]["low"] is None


def make_regions() -> tuple[Any, list[Instances]]:
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 20]]).repeat(3, 1))
    labels = torch.tensor([0, 2, 1])  # the second is background
    image = Instances((40, 40), proposal_boxes=boxes, gt_boxes=boxes, gt_classes=labels)
    image.gt_wrong = torch.tensor([1.0, 1, 0])
    image.gt_wrong_same_class = torch.ones(3)
    other = Instances((40, 40), proposal_boxes=boxes[:1], gt_classes=torch.tensor([2]))
    deltas = torch.zeros(4, 8)
    deltas[0, :4] = 2.0
    return (torch.zeros(4, 3), deltas), [image, other]


@pytest.mark.parametrize("drops", [False, True])
def test_a_recorder_replaces_both_kinds_of_predictor(drops: bool) -> None:
    kind: Any = RoIDropFastRCNNOutputLayers if drops else FastRCNNOutputLayers
    extra = {"drop": RoIDropSettings()} if drops else {}
    transform = Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0))
    layers = kind(ShapeSpec(channels=8), box2box_transform=transform, num_classes=2, **extra)
    recorder = LossRecorder.taking_over(layers, RoIDropSettings())
    given, regions = make_regions()
    assert recorder.losses(given, regions) == {}
    assert isinstance(recorder, LossRecorder) and recorder.rows is not None
    (row,) = recorder.rows
    np.testing.assert_allclose(row["cls_loss"], [np.log(3)] * 4, rtol=1e-6)
    assert row["box_loss"].tolist() == [2, 0, 0, 0]
    assert row["foreground"].tolist() == [True, False, True, False]
    assert row["wrong"].tolist() == [True, False, False, False]
    assert row["wrong_same_class"].tolist() == [True, False, True, False]


def test_weights_pseudo_boxes_and_true_boxes_must_be_there() -> None:
    cfg = base_config()
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        load_detector(cfg)
    cfg.DATASETS.TRAIN = ("some_weak",)
    with pytest.raises(ValueError, match="DATASETS.PSEUDO_GT_TRAIN has 0 files"):
        pseudo_records(cfg, iou=0.7)
    cfg.DATASETS.PSEUDO_GT_TRAIN = ("pseudo_gt.json",)
    with pytest.raises(ValueError, match="'some_weak' has no annotated twin"):
        pseudo_records(cfg, iou=0.7)
