"""The detector's boxes as proposals and as prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weaksam_d2.projects.boxsam import (
    BoxSettings,
    OpenVocabularyBoxes,
    OpenVocabularyDetector,
    OpenVocabularyPrompts,
)

from weaksam_d2.artifacts import PromptSet, ProposalStore
from weaksam_d2.engine.stages.image_stages import Placement, prompts_stage, proposals_stage

KNOWN = {"cat": [((4, 4, 24, 24), 0.6)], "dog": [((30, 10, 50, 34), 0.9)]}


class Tags:
    supervision = "none"

    def __call__(self, record: Any, image: Any) -> list[int]:
        return [0, 1]


def parts(find_boxes: Callable[..., Any]) -> dict[str, Any]:
    words = ["cat", "dog", "plant"]
    found = OpenVocabularyDetector(find_boxes(KNOWN), words=words, settings=BoxSettings())
    return {"tagger": Tags(), "detector": found}


def test_boxes_are_proposals_by_falling_score(
    find_boxes: Callable[..., Any], image: np.ndarray
) -> None:
    found = OpenVocabularyBoxes(**parts(find_boxes))(image, None, None)
    assert found.boxes.tolist() == [[30, 10, 50, 34], [4, 4, 24, 24]]
    assert found.scores is not None and found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert found.source_names == ("OpenVocabularyBoxes",) and found.image_size == (40, 60)


def test_boxes_are_prompts_with_their_classes(
    find_boxes: Callable[..., Any], animals: str, tmp_path: Path
) -> None:
    source = OpenVocabularyPrompts(**parts(find_boxes))
    record = {"file_name": str(tmp_path / "a.png"), "image_id": "a"}
    prompts = source(record, None)
    assert prompts.classes.tolist() == [1, 0] and len(prompts.points) == 0
    assert prompts.boxes is not None and prompts.boxes.tolist()[0] == [30, 10, 50, 34]
    assert prompts.scores.tolist() == pytest.approx([0.9, 0.6])


@pytest.fixture()
def stage_cfg(cfg: Any, animals: str, clip_folder: Path, dino_folder: Path) -> Any:
    cfg.DATASETS.TRAIN = (animals,)
    cfg.WEAKSAM.PROPOSALS.METHOD = "OpenVocabularyBoxes"
    cfg.WEAKSAM.PROMPTS.SOURCES = ("OpenVocabularyPrompts",)
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    cfg.BOXSAM.DETECTOR.MODEL = str(dino_folder)
    cfg.BOXSAM.DETECTOR.BOX_THRESHOLD = 0.0
    return cfg


def test_the_stages_of_the_core_make_both(stage_cfg: Any, tmp_path: Path) -> None:
    proposals_stage(stage_cfg, "animals_weak", None, Placement(tmp_path / "proposals"))
    prompts_stage(stage_cfg, "animals_weak", None, Placement(tmp_path / "prompts"))
    boxes, prompts = (
        ProposalStore.open(tmp_path / "proposals"),
        PromptSet.open(tmp_path / "prompts"),
    )
    for image_id in ("a", "b"):
        assert len(boxes[image_id]) == len(prompts[image_id]) > 0
        np.testing.assert_array_equal(boxes[image_id].boxes, prompts[image_id].boxes)


def test_what_a_proposal_cannot_know_is_refused(stage_cfg: Any) -> None:
    stage_cfg.BOXSAM.TAGGER.MODE = "given"
    with pytest.raises(ValueError, match="MODE is 'given'"):
        OpenVocabularyBoxes(stage_cfg)
    OpenVocabularyPrompts(stage_cfg)  # sees the record
    stage_cfg.BOXSAM.DETECTOR.BOXES = "given"
    with pytest.raises(ValueError, match="no proposals"):
        OpenVocabularyPrompts(stage_cfg)
    stage_cfg.BOXSAM.DETECTOR.BOXES = "detected"
    stage_cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN is empty"):
        OpenVocabularyPrompts(stage_cfg)
