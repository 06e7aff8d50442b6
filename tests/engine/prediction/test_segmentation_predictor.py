"""A segmenter on an image alone gives what evaluation gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from weaksam_d2.artifacts import CategoryMap, LabelSpace, read_json, write_json
from weaksam_d2.data import SemSegMapper
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.pipeline.stored_config import (
    load_detector,
    stored_label_space,
    stored_model_config,
    stored_models,
)
from weaksam_d2.engine.prediction.choice import predictor_from_config, predictor_of_pipeline
from weaksam_d2.engine.prediction.predictor import WeakSAMPredictor
from weaksam_d2.engine.prediction.segmentation_predictor import SegmentationPredictor
from weaksam_d2.engine.training.inference_views import with_test_views
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.projects import add_all_configs

CPU = ("MODEL.DEVICE", "cpu")
VIEWS = ("TEST.SEM_SEG_SCALES", "(0.5, 1.0)", "TEST.SEM_SEG_FLIP", "True")
BIRDS = CategoryMap(["duck", "swan"])


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smooth picture with an edge, so that labels differ from place to place."""
    y, x = np.mgrid[:60, :90]
    pixels = np.stack([3 * y, 255 - 2 * x, 128 + 60 * np.sin(x / 7)], axis=2)
    pixels[20:45, 30:70] = 255 - pixels[20:45, 30:70]
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


def direct(cfg: Any, model: Any, photo: Path) -> np.ndarray:
    """Labels by the mapper of evaluation and torch's argmax."""
    record = {"file_name": str(photo), "image_id": "photo", "height": 60, "width": 90}
    with torch.no_grad():
        scores = model([SemSegMapper(cfg, False)(record)])[0]["sem_seg"]
    return scores.argmax(dim=0).numpy()


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.mark.parametrize("opts", [CPU, (*CPU, *VIEWS)], ids=["plain", "views"])
def test_labels_are_those_of_the_model_behind_the_mapper(
    segmenter_run: Path, photo: Path, opts: tuple[str, ...]
) -> None:
    predictor = SegmentationPredictor.of_pipeline(segmenter_run, opts=opts)
    found = predictor(rgb(photo))
    cfg = stored_model_config(segmenter_run, "segmenter", opts=opts)
    model = with_test_views(cfg, load_detector(cfg, cfg.MODEL.WEIGHTS))
    assert found["labels"].dtype == np.uint8
    assert np.array_equal(found["labels"], direct(cfg, model, photo))
    assert len(np.unique(found["labels"])) > 1
    assert found["sem_seg"].shape == (3, 60, 90)
    if opts != CPU:
        torch.testing.assert_close(found["sem_seg"].sum(dim=0), torch.ones(60, 90))
    assert predictor.test_size == {"shortest_side": 96, "longest_side": 2048}


def test_views_are_other_predictions(segmenter_run: Path) -> None:
    plain = SegmentationPredictor.of_pipeline(segmenter_run, opts=CPU)
    views = SegmentationPredictor.of_pipeline(segmenter_run, opts=(*CPU, *VIEWS))
    assert plain.identity["weights"] == views.identity["weights"]
    assert plain.identity["config"] != views.identity["config"]


def test_a_pipeline_gives_the_model_that_it_led_to(segmenter_run: Path, tiny_pipeline: Any) -> None:
    found = predictor_of_pipeline(segmenter_run, opts=CPU)
    assert isinstance(found, SegmentationPredictor)
    assert found.space == stored_label_space(segmenter_run) == LabelSpace("x", BIRDS.names)
    detector = predictor_of_pipeline(tiny_pipeline.root, opts=CPU)
    assert isinstance(detector, WeakSAMPredictor)
    by_name = WeakSAMPredictor.of_pipeline(tiny_pipeline.root, "retrain", opts=CPU)
    assert detector.identity == by_name.identity
    assert stored_models(tiny_pipeline.root) == ["retrain", "wsod"]


def test_a_model_that_a_pipeline_does_not_have_is_named_with_those_it_has(
    segmenter_run: Path, tiny_pipeline: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"has no model 'wsod', it has: segmenter"):
        predictor_of_pipeline(segmenter_run, "wsod")
    with pytest.raises(ValueError, match=r"no model 'segmenter', it has: retrain, wsod"):
        predictor_of_pipeline(tiny_pipeline.root, "segmenter")
    with pytest.raises(ValueError, match="the model is 'dino', expected one of retrain, wsod, seg"):
        predictor_of_pipeline(segmenter_run, "dino")
    with pytest.raises(FileNotFoundError, match="holds no trained model"):
        predictor_of_pipeline(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run the stage labels"):
        stored_label_space(tmp_path)


def test_a_key_that_is_not_known_is_named_with_its_file(
    segmenter_run: Path, tmp_path: Path
) -> None:
    stored = read_json(segmenter_run / "segment/segmenter/config.json")
    path = tmp_path / "segment/segmenter/config.json"
    write_json(path, {**stored, "MODEL.QUERIES.NUM": 3})
    with pytest.raises(KeyError, match=r"config.json has the key MODEL.QUERIES.NUM.*add_all_conf"):
        predictor_of_pipeline(tmp_path)


def test_a_config_says_what_its_model_is(segmenter_run: Path) -> None:
    cfg = stored_model_config(segmenter_run, "segmenter", opts=CPU)
    found = predictor_from_config(cfg, categories=BIRDS, name="birds")
    assert isinstance(found, SegmentationPredictor)
    cfg.INPUT.MAPPER_NAME = ""  # detectron2's own segmenters train without our mapper
    found = predictor_from_config(cfg, categories=BIRDS, name="birds")
    assert isinstance(found, SegmentationPredictor)
    with pytest.raises(ValueError, match="it labels pixels, as SegmentationPredictor does"):
        WeakSAMPredictor.from_config(cfg, categories=BIRDS)


def test_what_cannot_be_labeled_is_refused(segmenter_run: Path, tiny_pipeline: Any) -> None:
    cfg = stored_model_config(segmenter_run, "segmenter", opts=CPU)
    with pytest.raises(ValueError, match="is 3, but there are 2 class names: background, duck"):
        predictor_from_config(cfg, categories=CategoryMap(["duck"]), name="birds")
    space = LabelSpace("birds", BIRDS.names)
    detector = stored_model_config(tiny_pipeline.root, "retrain", opts=CPU)
    detector.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    with pytest.raises(ValueError, match="GeneralizedRCNN, which labels no pixels"):
        SegmentationPredictor.from_config(detector, space=space)
    predictor = SegmentationPredictor.of_pipeline(segmenter_run, opts=CPU)
    with pytest.raises(ValueError, match="expected an RGB uint8 image"):
        predictor(np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="a segmenter labels every pixel"):
        predictor.kind(score_thresh=0.5)


def test_mask2former_of_label_images_is_a_segmenter(photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    name = "projects/Mask2Former/configs/quick_schedules/mask2former_semseg_lite0.yaml"
    cfg = base_config(add_all_configs)
    cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = "cpu", "test_efficientnet", ""
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.INPUT.MIN_SIZE_TEST = 3, 64
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 1
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    predictor = predictor_from_config(cfg, categories=BIRDS, name="birds")
    assert isinstance(predictor, SegmentationPredictor)
    assert np.array_equal(predictor(rgb(photo))["labels"], direct(cfg, model, photo))
