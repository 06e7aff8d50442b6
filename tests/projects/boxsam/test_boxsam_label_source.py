"""BoxSAM as a label source: supervision, flags, edge cases, and what the stage writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weaksam_d2.projects.boxsam import (
    BoxSAM,
    BoxSegmenter,
    BoxSettings,
    FuseSettings,
    OpenVocabularyDetector,
    add_boxsam_config,
)
from weaksam_d2.projects.boxsam.boxsam import is_paper

from weaksam_d2.artifacts import LabelSpace, SemSegLabels, read_json
from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY
from weaksam_d2.engine import cli
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.label_stages import labels_stage
from weaksam_d2.sam import FakeSam

CLASSES = ["cat", "dog", "pottedplant"]
SPACE = LabelSpace("animals", CLASSES)


class Tags:
    supervision = "none"

    def __init__(self, *tags: int) -> None:
        self.tags = list(tags)

    def __call__(self, record: Any, image: Any) -> list[int]:
        return self.tags


def source(find: Any, *tags: int, **fuse: Any) -> BoxSAM:
    detector = OpenVocabularyDetector(find, words=CLASSES, settings=BoxSettings())
    return BoxSAM(
        tagger=Tags(*tags),
        detector=detector,
        segmenter=BoxSegmenter(FakeSam()),
        fuse=FuseSettings(**fuse),
    )


def test_tags_without_a_box_are_flagged_and_the_others_go_on(
    find_boxes: Callable[..., Any], image: np.ndarray
) -> None:
    find = find_boxes({"cat": [((4, 4, 24, 24), 0.8)], "dog": [((30, 10, 50, 34), 0.2)]})
    result = source(find, 0, 1, 2).label({}, image)
    assert result.flags == ("class_empty:2", "class_empty:3")
    assert np.unique(result.label).tolist() == [0, 1] and (result.label == 1).sum() == 400
    assert result.tags == (0, 1, 2) and len(result.boxes) == 1


def test_without_tags_and_without_boxes_all_is_background(
    find_boxes: Callable[..., Any], image: np.ndarray
) -> None:
    nothing = source(find_boxes({}), ignore_band=2).label({}, image)
    assert not nothing.label.any() and nothing.flags == ("no_tags",)
    unseen = source(find_boxes({}), 1).label({}, image)
    assert not unseen.label.any() and unseen.flags == ("class_empty:2",)


def test_boxes_outside_or_not_finite_are_dropped_and_counted(
    find_boxes: Callable[..., Any], image: np.ndarray
) -> None:
    rows = [((np.nan, 0, 5, 5), 0.9), ((70, 0, 90, 20), 0.8), ((0, 0, 600, 400), 0.7)]
    result = source(find_boxes({"cat": rows}), 0).label({}, image)
    assert result.flags == ("bad_boxes:1",) and (result.label == 1).all()


def test_a_class_that_is_hidden_by_others_is_flagged(
    find_boxes: Callable[..., Any], image: np.ndarray
) -> None:
    find = find_boxes({"cat": [((4, 4, 24, 24), 0.8)], "dog": [((4, 4, 24, 23), 0.9)]})
    find_same = find_boxes({"cat": [((4, 4, 24, 24), 0.8)], "dog": [((4, 4, 24, 24), 0.9)]})
    assert source(find_same, 0, 1).label({}, image).flags == ("class_empty:1",)
    assert source(find, 0, 1).label({}, image).flags == ("class_empty:1",)  # IoU .95
    left = {"cat": [((4, 4, 24, 24), 0.8), ((4, 4, 14, 24), 0.7)], "dog": [((4, 4, 24, 20), 0.9)]}
    partly = source(find_boxes(left), 1, 0, order="score").label({}, image)
    assert set(np.unique(partly.label)) == {0, 1, 2}
    covered = {"cat": [((4, 4, 14, 24), 0.7)], "dog": [((4, 4, 24, 24), 0.9)]}
    assert source(find_boxes(covered), 0, 1, order="score").label({}, image).flags == ("lost:1",)


@given(seed=st.integers(0, 2**30), band=st.integers(0, 2), uncertain=st.sampled_from([0.0, 0.6]))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_labels_are_tags_background_or_ignored(
    find_boxes: Callable[..., Any], image: np.ndarray, seed: int, band: int, uncertain: float
) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-10, 60, (6, 2))
    known: dict[str, list[Any]] = {name: [] for name in CLASSES}
    for corner in corners:
        box = (*corner, *(corner + rng.uniform(0, 50, 2)))
        known[CLASSES[rng.integers(3)]].append((box, float(rng.uniform(0, 1))))
    tags = [c for c in range(3) if rng.random() < 0.6]
    made = source(find_boxes(known), *tags, ignore_band=band, uncertain=uncertain)
    result = made.label({}, image)
    allowed = {0, *(tag + 1 for tag in tags)} | ({255} if band or uncertain else set())
    assert set(np.unique(result.label).tolist()) <= allowed
    assert result.label.shape == image.shape[:2] and result.label.dtype == np.uint8


@pytest.fixture()
def stage_cfg(cfg: Any, animals: str, clip_folder: Path, dino_folder: Path) -> Any:
    cfg.DATASETS.TRAIN = (animals,)
    cfg.WEAKSAM.LABELS.SOURCE = "BoxSAM"
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    cfg.BOXSAM.DETECTOR.MODEL = str(dino_folder)
    return cfg


def run(cfg: Any, output: Path) -> SemSegLabels:
    labels_stage(cfg, cfg.DATASETS.TRAIN[0], {}, Placement(output))
    return SemSegLabels.open(output)


def shuffle_truth() -> None:
    first, second = DatasetCatalog.get("animals_eval")
    first["annotations"], second["annotations"] = second["annotations"], first["annotations"]
    for record in (first, second):
        for row in record["annotations"]:
            row["bbox"] = [1, 1, 9, 9]


def test_the_default_is_told_nothing_and_reads_no_truth(stage_cfg: Any, tmp_path: Path) -> None:
    stage_cfg.BOXSAM.DETECTOR.BOX_THRESHOLD = 0.0
    labels = run(stage_cfg, tmp_path / "one")
    assert (labels.system, labels.supervision) == ("BoxSAM", "none")
    shuffle_truth()
    again = run(stage_cfg, tmp_path / "two")
    seen = set()
    for image_id in labels.image_ids:
        np.testing.assert_array_equal(labels[image_id], again[image_id])
        seen |= set(np.unique(labels[image_id]).tolist())
    assert seen - {0}, "the random models must find something for this test to see anything"
    config = read_json(tmp_path / "one" / "config.json")
    assert config["BOXSAM.DETECTOR.MODEL"] == stage_cfg.BOXSAM.DETECTOR.MODEL
    assert "BOXSAM.TAGGER.CLIP" not in config


def test_given_tags_are_recorded_as_supervision(stage_cfg: Any, tmp_path: Path) -> None:
    stage_cfg.BOXSAM.TAGGER.MODE = "given"
    stage_cfg.BOXSAM.DETECTOR.BOX_THRESHOLD = 0.99
    labels = run(stage_cfg, tmp_path / "labels")
    assert labels.supervision == "image_labels" and labels.base == "custom"
    assert labels.entry("a")["tags"] == [0, 1]


def test_given_boxes_need_no_tags_and_are_recorded(stage_cfg: Any, tmp_path: Path) -> None:
    stage_cfg.BOXSAM.DETECTOR.BOXES = "given"
    stage_cfg.BOXSAM.TAGGER.CLIP = stage_cfg.BOXSAM.DETECTOR.MODEL = "nowhere"
    labels = run(stage_cfg, tmp_path / "labels")
    assert labels.supervision == "given_boxes"
    expected = np.zeros((40, 60), np.uint8)
    expected[4:24, 4:24], expected[10:34, 30:50] = 1, 2
    np.testing.assert_array_equal(labels["a"], expected)
    assert (labels["b"] == 1).all()


def test_the_paper_setting_is_known_by_its_keys(cfg: Any) -> None:
    assert is_paper(cfg)
    for change in (
        ("BOXSAM.FUSE.ORDER", "score"),
        ("BOXSAM.TAGGER.MODE", "given"),
        ("WEAKSAM.SAM.ARCH", "vit_t"),
        ("BOXSAM.DETECTOR.BOXES", "given"),
    ):
        other = cli.base_config(add_boxsam_config)
        other.merge_from_list(list(change))
        assert not is_paper(other), change
    cfg.BOXSAM.TAGGER.TOP_N = 10
    assert is_paper(cfg)


def test_a_detector_that_needs_tags_is_not_used_without_a_tagger(
    find_boxes: Callable[..., Any],
) -> None:
    detector = OpenVocabularyDetector(find_boxes({}), words=CLASSES, settings=BoxSettings())
    with pytest.raises(ValueError, match="needs the tags"):
        BoxSAM(
            tagger=None,
            detector=detector,
            segmenter=BoxSegmenter(FakeSam()),
            fuse=FuseSettings(),
        )
    assert LABEL_SOURCE_REGISTRY.get("BoxSAM") is BoxSAM
