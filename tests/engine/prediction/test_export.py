"""A traced detector, read back, detects as its origin does, or there is no file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from weaksam_d2.engine.prediction.export import (
    Difference,
    compare,
    difference_table,
    export_torchscript,
)
from weaksam_d2.engine.prediction.predictor import WeakSAMPredictor

CPU = ("MODEL.DEVICE", "cpu")


@pytest.fixture(scope="module")
def predictor(tiny_pipeline: Any) -> WeakSAMPredictor:
    return WeakSAMPredictor.of_pipeline(tiny_pipeline.root, opts=CPU)


@pytest.fixture(scope="module")
def samples(predictor: WeakSAMPredictor, tiny_pipeline: Any) -> dict[str, torch.Tensor]:
    """Three sizes, the second one lying, the third one small."""
    image = tiny_pipeline.image("e")
    images = {"e": image, "turned": image.transpose(1, 0, 2), "part": image[:40, :40]}
    return {name: predictor.sample(one.copy())["image"] for name, one in images.items()}


def test_the_exported_detector_agrees_on_images_of_other_sizes(
    predictor: WeakSAMPredictor, samples: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    found = export_torchscript(predictor.model, samples, tmp_path / "a/detector.ts")
    assert [row.name for row in found] == list(samples)
    assert all(row.count > 0 and row.within(box=0.01, score=1e-4) for row in found)
    table = difference_table(found)
    assert "turned" in table and "total, largest" in table
    boxes, scores, classes = torch.jit.load(tmp_path / "a/detector.ts")(samples["part"])
    assert len(boxes) == len(scores) == len(classes) == found[2].count


def test_another_detector_is_seen_and_not_written(
    predictor: WeakSAMPredictor,
    samples: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shifted(image: torch.Tensor) -> Any:
        found = predictor.model.inference([{"image": image}], do_postprocess=False)[0]
        return found.pred_boxes.tensor + 0.5, found.scores, found.pred_classes

    found = compare("e", predictor.model, shifted, samples["e"])
    assert found.box == pytest.approx(0.5, abs=1e-3) and found.score < 1e-4
    monkeypatch.setattr(torch.jit, "load", lambda path: shifted)
    with pytest.raises(ValueError, match="differs from its origin on e, turned, part"):
        export_torchscript(predictor.model, samples, tmp_path / "wrong.ts")
    assert not (tmp_path / "wrong.ts").exists()


def test_lost_detections_are_a_difference() -> None:
    nan = float("nan")
    assert not Difference("a", 3, 2, nan, nan, nan, nan).within(box=1e9, score=1e9)
    assert not Difference("a", 3, 3, 0.0, 0.0, 1.0, 0.0).within(box=1.0, score=1.0)
    assert not Difference("a", 3, 3, 0.0, 0.0, 0.0, 0.5).within(box=1.0, score=0.1)
    assert Difference("a", 3, 3, 0.5, 0.1, 0.0, 0.0).within(box=0.5, score=0.1)


def test_what_takes_more_than_an_image_is_refused(
    predictor: WeakSAMPredictor, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="a Linear cannot be exported"):
        export_torchscript(torch.nn.Linear(1, 1), {}, tmp_path / "x.ts")
    with pytest.raises(ValueError, match="there is no sample image"):
        export_torchscript(predictor.model, {}, tmp_path / "x.ts")
