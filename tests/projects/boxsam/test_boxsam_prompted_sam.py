"""Labels of stored prompts, without training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weaksam_d2.projects.boxsam import PromptedSAM

from weaksam_d2.artifacts import LabelSpace, Prompts, PromptSetWriter

CLASSES = ["cat", "dog", "pottedplant"]
SPACE = LabelSpace("animals", CLASSES)
SIZE = (40, 60)


def write(path: Path, prompts: Prompts, classes: list[str] = CLASSES) -> dict[str, Path]:
    with PromptSetWriter(
        path, source_names=prompts.source_names, grid=None, class_names=classes
    ) as writer:
        writer.add("a", prompts, SIZE)
        writer.add("b", prompts.select(np.zeros(0, np.int64)), SIZE)
    return {"input": path}


def points(
    *rows: tuple[float, float], classes: list[int], offsets: list[int] | None = None
) -> Prompts:
    count = len(classes)
    return Prompts(
        points=np.array(rows, np.float32),
        offsets=np.array(offsets or range(count + 1)),
        scores=np.linspace(0.9, 0.8, count),
        classes=np.array(classes),
        sources=np.zeros(count, np.uint8),
        source_names=("CoarseCAMPeaks",),
    )


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    return np.hypot(columns - x, rows - y) < radius


def record(root: Path, name: str) -> dict[str, Any]:
    return {"file_name": str(root / name), "image_id": name[0], "height": 40, "width": 60}


def test_each_prompt_is_an_object_by_sams_best_mask(cfg: Any, animals: str, tmp_path: Path) -> None:
    given = points((12, 12), (40, 20), (50, 20), classes=[0, 1], offsets=[0, 1, 3])
    label_source = PromptedSAM(cfg, write(tmp_path / "p", given), SPACE)
    assert label_source.supervision == "image_labels"
    result = label_source(record(tmp_path, "a.png"))
    # The fake's first mask has the highest predicted IoU: discs of 60 / 16 pixels.
    cat, dog = disc(12, 12, 3.75), disc(40, 20, 3.75) | disc(50, 20, 3.75)
    np.testing.assert_array_equal(result.label, np.where(cat, 1, np.where(dog, 2, 0)))
    assert result.tags == (0, 1) and result.flags == ()


def test_smaller_objects_lie_on_top(cfg: Any, animals: str, tmp_path: Path) -> None:
    given = points((20, 20), (20, 20), (24, 20), classes=[2, 0], offsets=[0, 1, 3])
    label = PromptedSAM(cfg, write(tmp_path / "p", given), SPACE)(record(tmp_path, "a.png")).label
    assert (label[disc(20, 20, 3.75)] == 3).all() and (label == 1).any()


def test_an_image_without_prompts_is_background(cfg: Any, animals: str, tmp_path: Path) -> None:
    inputs = write(tmp_path / "p", points((12, 12), classes=[0]))
    result = PromptedSAM(cfg, inputs, SPACE)(record(tmp_path, "b.png"))
    assert not result.label.any() and result.flags == ("no_tags",)


def test_box_prompts_are_grouped_as_boxsam_does(cfg: Any, animals: str, tmp_path: Path) -> None:
    given = Prompts(
        points=np.zeros((0, 2)),
        offsets=np.zeros(2),
        scores=np.ones(1),
        classes=np.array([1]),
        sources=np.zeros(1),
        source_names=("OpenVocabularyPrompts",),
        boxes=np.array([[4, 4, 24, 24]]),
    )
    label_source = PromptedSAM(cfg, write(tmp_path / "p", given), SPACE)
    assert label_source.supervision == "none"
    label = label_source(record(tmp_path, "a.png")).label
    expected = np.zeros(SIZE, np.uint8)
    expected[4:24, 4:24] = 2
    np.testing.assert_array_equal(label, expected)
    cfg.BOXSAM.TAGGER.MODE = "given"
    assert PromptedSAM(cfg, {"input": tmp_path / "p"}, SPACE).supervision == "image_labels"


def test_what_it_cannot_label_is_refused(cfg: Any, animals: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--input"):
        PromptedSAM(cfg, {}, SPACE)
    other = write(tmp_path / "other", points((1, 1), classes=[0]), ["cat", "cow", "x"])
    with pytest.raises(ValueError, match="cow"):
        PromptedSAM(cfg, other, SPACE)
    inputs = write(tmp_path / "p", points((1, 1), (2, 2), classes=[0, -1]))
    with pytest.raises(ValueError, match=r"prompt 1 of image 'a' \(CoarseCAMPeaks\)"):
        PromptedSAM(cfg, inputs, SPACE)(record(tmp_path, "a.png"))
    cfg.BOXSAM.FUSE.ORDER = "logit"
    with pytest.raises(ValueError, match="logit"):
        PromptedSAM(cfg, inputs, SPACE)
