"""Detectors: boxes by the names of tags, and true boxes for analysis."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from weaksam_d2.projects.boxsam import (
    BoxSettings,
    GivenBoxes,
    OpenVocabularyDetector,
    build_detector,
)
from weaksam_d2.projects.boxsam.detector import true_boxes

CLASSES = ["cat", "dog", "pottedplant"]


def test_all_tags_are_asked_for_at_once_by_their_words(image: np.ndarray) -> None:
    asked: list[list[str]] = []

    def find(picture: np.ndarray, words: list[str]) -> Any:
        import torch

        asked.append(list(words))
        return torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.1, 0.8]])

    detector = OpenVocabularyDetector(
        find, words=["cat", "dog", "potted plant"], settings=BoxSettings()
    )
    found = detector({}, image, [0, 2])
    assert asked == [["cat", "potted plant"]]
    assert found.classes.tolist() == [2]
    assert len(detector({}, image, [])) == 0 and len(asked) == 1


def test_a_model_of_transformers_detects_tagged_classes_alone(
    cfg: Any, dino_folder: Path, image: np.ndarray
) -> None:
    cfg.BOXSAM.DETECTOR.MODEL = str(dino_folder)
    cfg.BOXSAM.DETECTOR.BOX_THRESHOLD = 0.0
    detector = build_detector(cfg, CLASSES)
    found = detector({}, image, [0, 2])
    assert len(found) and set(found.classes.tolist()) <= {0, 2}
    assert found.boxes.min() >= 0 and (found.boxes <= [60, 40, 60, 40]).all()
    assert detector.supervision == "none"


def test_given_boxes_are_those_of_the_twin_without_crowds(cfg: Any, animals: str) -> None:
    DatasetCatalog.get("animals_eval")[0]["annotations"].append(
        {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "category_id": 2, "iscrowd": 1}
    )
    cfg.DATASETS.TRAIN, cfg.BOXSAM.DETECTOR.BOXES = (animals,), "given"
    detector = build_detector(cfg, CLASSES)
    assert isinstance(detector, GivenBoxes) and detector.supervision == "given_boxes"
    record = DatasetCatalog.get(animals)[0]
    assert detector.classes(record) == [0, 1]
    found = detector(record, np.zeros((40, 60, 3), np.uint8), [1])
    assert found.boxes.tolist() == [[30, 10, 50, 34]] and found.scores.tolist() == [1]
    with pytest.raises(KeyError, match=r"'c'"):
        detector.classes({"image_id": "c", "file_name": "c.png"})


def test_boxes_that_leave_the_image_are_clipped(animals: str) -> None:
    DatasetCatalog.get("animals_eval")[1]["annotations"][0]["bbox"] = [-1, 2, 61, 41]
    assert true_boxes(animals)["b"].boxes.tolist() == [[0, 2, 60, 40]]


def test_two_sets_may_have_an_image_of_one_id_each(cfg: Any, animals: str) -> None:
    copies = [{**r, "file_name": "other.png"} for r in DatasetCatalog.get("animals_eval")][:1]
    copies[0]["annotations"] = []
    DatasetCatalog.register("copies_eval", lambda: copies)
    MetadataCatalog.get("copies_weak").set(evaluation_name="copies_eval")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (animals,), ("copies_weak",)
    cfg.BOXSAM.DETECTOR.BOXES = "given"
    detector = build_detector(cfg, CLASSES)
    assert isinstance(detector, GivenBoxes)
    assert detector.classes(DatasetCatalog.get(animals)[0]) == [0, 1]
    assert detector.classes(copies[0]) == []


def test_a_set_without_a_twin_is_refused() -> None:
    with pytest.raises(ValueError, match="no annotated twin"):
        true_boxes("animals_eval")


def test_an_unknown_choice_is_refused(cfg: Any, find_boxes: Callable[..., Any]) -> None:
    cfg.BOXSAM.DETECTOR.BOXES = "true"
    with pytest.raises(ValueError, match="BOXES is 'true'"):
        build_detector(cfg, CLASSES)
