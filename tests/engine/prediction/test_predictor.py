"""A detector on an image alone gives what the pipeline's evaluation gave."""

from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import CategoryMap, ProposalStore, read_detections
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.stored_config import stored_categories, stored_config
from weaksam_d2.engine.prediction.image_road import ImageRoad
from weaksam_d2.engine.prediction.predictor import WeakSAMPredictor
from weaksam_d2.evaluation import Detections, detection_entries

CPU = ("MODEL.DEVICE", "cpu")


def entries(predictor: WeakSAMPredictor, image: np.ndarray) -> list[dict[str, Any]]:
    found = predictor(image)["instances"]
    boxes = found.pred_boxes.tensor.numpy()
    rows = Detections(boxes, found.scores.numpy(), found.pred_classes.numpy())
    return detection_entries("e", rows, predictor.categories)


def test_the_road_of_an_image_gives_the_proposals_that_the_pipeline_stored(
    tiny_pipeline: Any,
) -> None:
    root = tiny_pipeline.root
    road = ImageRoad.of_pipeline(root, ["duck", "swan"], opts=CPU)
    found = road(tiny_pipeline.image("e"))
    stored = ProposalStore.open(Layout(root).proposals("tp_test_weak"))["e"]
    assert len(found.boxes) > 16  # some are of the maps, not of the grid
    assert found.boxes.tobytes() == stored.boxes.tobytes()
    assert found.sources is not None and len(np.unique(found.sources)) == 2
    assert set(road.identity) == {"cams", "prompts", "proposals", "classifier"}


@pytest.mark.parametrize("detector", ["retrain", "wsod"])
def test_detections_of_an_image_alone_are_those_of_the_evaluation(
    tiny_pipeline: Any, detector: str
) -> None:
    predictor = WeakSAMPredictor.of_pipeline(tiny_pipeline.root, detector, opts=CPU)
    folder = Layout(tiny_pipeline.root).wsod
    if detector == "retrain":  # the last round's
        folder = Layout(tiny_pipeline.root).round(2).retrain
    expected = read_detections(folder / "inference/tp_test_weak/detections.json")
    found = entries(predictor, tiny_pipeline.image("e"))
    assert len(found) == len(expected) > 0
    assert found == expected
    assert ("proposals" in predictor.identity) == (detector == "wsod")


def test_views_of_test_time_augmentation_are_taken(tiny_pipeline: Any) -> None:
    image, root = tiny_pipeline.image("e"), tiny_pipeline.root
    views = ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)")
    for detector in ("retrain", "wsod"):
        plain = WeakSAMPredictor.of_pipeline(root, detector, opts=CPU)
        augmented = WeakSAMPredictor.of_pipeline(root, detector, opts=(*CPU, *views))
        assert len(augmented(image)["instances"])
        assert entries(plain, image) != entries(augmented, image)


def test_scores_fall_and_boxes_lie_in_the_image(tiny_pipeline: Any) -> None:
    predictor = WeakSAMPredictor.of_pipeline(tiny_pipeline.root, opts=CPU)
    assert predictor.test_size == {"shortest_side": 96, "longest_side": 1333}
    image = np.ascontiguousarray(tiny_pipeline.image("e")[:50, ::-1])
    found = predictor(image)["instances"]
    scores, boxes = found.scores, found.pred_boxes.tensor
    assert found.image_size == (50, 80) and (scores[:-1] >= scores[1:]).all()
    assert boxes.min() >= 0 and (boxes.max(dim=0).values <= boxes.new_tensor([80, 50] * 2)).all()


def test_what_cannot_be_predicted_is_refused(tiny_pipeline: Any, tmp_path: Any) -> None:
    root = tiny_pipeline.root
    categories = stored_categories(root)
    assert categories.names == ["duck", "swan"]
    wsod = stored_config(root / "wsod", opts=CPU)
    with pytest.raises(ValueError, match="needs proposals of each image.*--pipeline"):
        WeakSAMPredictor.from_config(wsod, categories=categories)
    cfg = stored_config(root / "retrain", opts=CPU)
    with pytest.raises(ValueError, match="NUM_CLASSES is 2, but there are 1 class names: duck"):
        WeakSAMPredictor.from_config(cfg, categories=CategoryMap(["duck"]))
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        WeakSAMPredictor.from_config(cfg, categories=categories)
    cfg.MODEL.WEIGHTS = str(root / "wsod/model_final.pth")
    with pytest.raises(ValueError, match="lacks .* parameters of the model"):
        WeakSAMPredictor.from_config(cfg, categories=categories)
    with pytest.raises(ValueError, match="detector is 'dino', expected one of retrain, wsod"):
        WeakSAMPredictor.of_pipeline(root, "dino")
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        WeakSAMPredictor.of_pipeline(tmp_path)
    predictor = WeakSAMPredictor.of_pipeline(root, opts=CPU)
    with pytest.raises(ValueError, match="expected an RGB uint8 image"):
        predictor(np.zeros((8, 8), np.uint8))
