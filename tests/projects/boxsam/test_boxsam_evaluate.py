"""Figures of the parts."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from weaksam_d2.projects.boxsam import ClassBoxes, TagScores
from weaksam_d2.projects.boxsam.component_table import component_figures
from weaksam_d2.projects.boxsam.evaluate import (
    LastEmbedding,
    box_figures,
    tag_figures,
    tag_ranking,
)

from weaksam_d2.ops import encode_rle
from weaksam_d2.sam import FakeSam

NAMES = ("cat", "dog", "pottedplant")


def test_tags_are_ranked_over_all_images_and_counted_as_pairs() -> None:
    rows = {"a": [0.9, 0.2, 0.0], "b": [0.1, 0.8, 0.3], "c": [0.8, 0.1, 0.9]}
    scores = TagScores.of(NAMES, {key: np.array(row) for key, row in rows.items()})
    truth = {"a": [0], "b": [0], "c": [1]}
    ranked = tag_ranking(scores, truth)
    # cat: ranks 1 and 3 of (a, c, b); dog: the last of (b, a, c); a plant is nowhere.
    assert ranked["AP-cat"] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert ranked["AP-dog"] == pytest.approx(100 / 3)
    assert np.isnan(ranked["AP-pottedplant"])
    assert ranked["mAP"] == pytest.approx((ranked["AP-cat"] + ranked["AP-dog"]) / 2)
    figures = tag_figures({"a": [0, 1], "b": [2], "c": [1]}, truth)
    assert figures == pytest.approx(
        {"precision": 50, "recall": 200 / 3, "F1": 400 / 7, "tags_per_image": 4 / 3}
    )
    assert np.isnan(tag_figures({"a": []}, {"a": []})["F1"])


def test_box_ap_is_that_of_voc() -> None:
    box = {"bbox": [0, 0, 10, 10], "bbox_mode": 0, "category_id": 1}
    records = {"a": {"image_id": "a", "height": 40, "width": 60, "annotations": [box]}}
    boxes = np.array([[20, 20, 30, 30], [0, 0, 10, 9]], np.float32)
    found = ClassBoxes(boxes, np.array([0.9, 0.8], np.float32), np.array([1, 1]))
    figures = box_figures({"a": found}, records, NAMES)
    assert figures["mAP"] == figures["AP-dog"] == pytest.approx(50)
    assert np.isnan(figures["AP-cat"])


def test_an_image_is_encoded_once_in_a_row(image: np.ndarray) -> None:
    backend = LastEmbedding(FakeSam())
    first = backend.encode(image)
    assert backend.encode(image) is first
    assert backend.encode(image.copy()) is not first


@pytest.fixture()
def judged(animals: str) -> str:
    """The set with true masks: the cat of ``a`` is its box, the dog a half, ``b`` is a crowd."""
    masks = np.zeros((3, 40, 60), bool)
    masks[0, 4:24, 4:24] = True
    masks[1, 10:34, 30:40] = True
    masks[2] = True
    first, second = DatasetCatalog.get("animals_eval")
    codes = [{"size": [40, 60], "counts": code.decode()} for code in encode_rle(masks)]
    objects = [*first["annotations"], {**second["annotations"][0], "iscrowd": 1}]
    masked = [{**row, "segmentation": c} for row, c in zip(objects, codes, strict=True)]
    records = [{**first, "annotations": masked[:2]}, {**second, "annotations": masked[2:]}]
    DatasetCatalog.register("animals_masks", lambda: records)
    MetadataCatalog.get("animals_masks").set(thing_classes=list(NAMES))
    MetadataCatalog.get(animals).set(
        mask_evaluation_name="animals_masks", sem_seg_evaluation_name="animals_masks"
    )
    return animals


def test_the_parts_of_given_boxes_are_judged_by_the_twins(cfg: Any, judged: str) -> None:
    cfg.DATASETS.TRAIN, cfg.BOXSAM.DETECTOR.BOXES = (judged,), "given"
    cfg.TEST.BOOTSTRAP = 50
    figures, scores = component_figures(
        cfg, judged, {}, parts=("tags", "boxes", "labels", "groupings")
    )
    assert scores is None and figures["supervision"] == "given_boxes"
    assert figures["tags"]["F1"] == figures["boxes"]["mAP"] == 100
    # The fake's masks fill the boxes: half of the dog's pixels are background.
    background = 2400 - 400 - 240
    ious = [(background - 240) / background, 1.0, 0.5]
    assert figures["labels"]["mIoU"] == pytest.approx(100 * np.mean(ious))
    groupings = figures["groupings"]["multimask"]
    assert groupings["mIoU"] == pytest.approx(figures["labels"]["mIoU"])
    assert (groupings["box_recall"], groupings["box_precision"]) == (100, 75)
    assert groupings["boxes"] == 2
    # All boxes are in one image: a resample without it has nothing to measure.
    assert (groupings["box_precision_low"], groupings["box_precision_high"]) == (75, 75)
    assert groupings["mIoU_low"] <= groupings["mIoU"] <= groupings["mIoU_high"]
    # The highest predicted IoU is of the mask of half the sides.
    small = figures["groupings"]["predicted_iou"]
    dog = (5 * 12) / (20 * 24 / 2), 0.5
    assert small["box_recall"] == pytest.approx(100 * (0.25 + dog[0]) / 2)
    assert small["box_precision"] == pytest.approx(100 * (1 + dog[1]) / 2)


def test_the_default_is_judged_and_scores_every_image_once(
    cfg: Any, judged: str, clip_folder: Path, dino_folder: Path
) -> None:
    cfg.DATASETS.TRAIN = (judged,)
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    cfg.BOXSAM.DETECTOR.MODEL = str(dino_folder)
    figures, scores = component_figures(cfg, judged, {})
    assert scores is not None and scores.image_ids == ("a", "b")
    assert figures["supervision"] == "none" and figures["detector"] == str(dino_folder)
    assert {"mAP", "F1"} <= set(figures["tags"]) and 0 <= figures["labels"]["mIoU"] <= 100
    alone, again = component_figures(cfg, judged, {}, parts=("tags",))
    assert again is not None and set(alone) == {"dataset", "images", "tags"}
    np.testing.assert_array_equal(scores.scores, again.scores)
    boxes, _ = component_figures(cfg, judged, {}, parts=("boxes",))
    assert boxes["boxes"] == pytest.approx(figures["boxes"], nan_ok=True)


def test_what_cannot_be_judged_is_refused(cfg: Any, animals: str) -> None:
    cfg.DATASETS.TRAIN = (animals,)
    with pytest.raises(ValueError, match=r"parts \['masks'\]"):
        component_figures(cfg, animals, {}, parts=("masks",))
    with pytest.raises(ValueError, match="mask_evaluation_name"):
        component_figures(cfg, animals, {}, parts=("groupings",))


def test_figures_of_boxes_are_means_over_all_boxes_with_intervals_over_images() -> None:
    figures_of = importlib.import_module("weaksam_d2.projects.boxsam.grouping_figures")
    shares = [[(1.0, 0.5), (0.0, 0.5)], [], [(0.8, 0.2)]]
    figures = figures_of._box_figures(shares, 500)
    assert (figures["box_recall"], figures["boxes"]) == (pytest.approx(60), 3)
    # Of three images: the first alone gives 50, the third alone 80.
    assert figures["box_recall_low"] == pytest.approx(50)
    assert figures["box_recall_high"] == pytest.approx(80)
    assert figures["box_precision"] == pytest.approx(40)
    empty = figures_of._box_figures([[]], 0)
    assert np.isnan(empty["box_recall"]) and empty["boxes"] == 0
