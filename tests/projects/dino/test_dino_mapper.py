"""Cropped training views: boxes stay on their objects, and chance is NumPy's."""

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image
from weaksam_d2.projects.dino import DetrMapper, add_dino_config

from weaksam_d2 import add_weaksam_config
from weaksam_d2.data.weak_mapper import DATASET_MAPPER_REGISTRY

HEIGHT, WIDTH = 300, 400
BOXES = ([30, 40, 150, 200], [220, 150, 390, 290])
SCORES = (0.25, 0.75)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A black image whose first object is all red and whose second is all green."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(BOXES):
        pixels[y1:y2, x1:x2, channel] = 255
    file = tmp_path_factory.mktemp("mapper") / "a.png"
    Image.fromarray(pixels).save(file)
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "score_norm": SCORES[i]}
        for i, box in enumerate(BOXES)
    ]
    size = {"image_id": "a", "height": HEIGHT, "width": WIDTH}
    return {"file_name": str(file), **size, "annotations": annotations}


def config(**changes: Any) -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    add_dino_config(cfg)
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.DETR_CROP = "RGB", (96, 128), True
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def extent(channel: torch.Tensor) -> list[float]:
    rows, columns = (channel > 127).nonzero().T
    return [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_boxes_stay_on_what_they_are_about(record: dict[str, Any]) -> None:
    mapper, cropped, lost = DetrMapper(config(), True), 0, 0
    for seed in range(40):
        seed_all_rng(seed)
        mapped = mapper(record)
        image, found = mapped["image"], mapped["instances"]
        height, width = image.shape[1:]
        assert min(height, width) in (96, 128) and found.image_size == (height, width)
        cropped += abs(width / height - WIDTH / HEIGHT) > 0.02
        lost += len(found) < 2
        for box, number in zip(found.gt_boxes.tensor.tolist(), found.gt_classes, strict=True):
            if min(box[2] - box[0], box[3] - box[1]) > 4:
                assert box == pytest.approx(extent(image[number]), abs=1.5)
        for number in {0, 1} - set(found.gt_classes.tolist()):
            assert image[number].float().mean() < 2  # no box is missing either
    assert 10 < cropped < 30 and lost


def test_numbers_of_pseudo_boxes_travel_with_them(record: dict[str, Any]) -> None:
    mapper = DetrMapper(config(MODEL__ROI_DROP__SCORE_WEIGHT="score_norm"), True)
    for seed in range(10):
        seed_all_rng(seed)
        found = mapper(record)["instances"]
        assert found.gt_score_norm.tolist() == [SCORES[i] for i in found.gt_classes.tolist()]


def test_views_are_a_function_of_the_seed(record: dict[str, Any]) -> None:
    mapper = DetrMapper(config(), True)
    views = []
    for seed in (3, 4, 3):
        seed_all_rng(seed)
        views.append([mapper(record)["image"] for _ in range(4)])
    assert all(a.equal(b) for a, b in zip(views[0], views[2], strict=True))
    assert not all(a.shape == b.shape and a.equal(b) for a, b in zip(*views[:2], strict=True))


def test_without_the_key_and_in_inference_nothing_is_cropped(record: dict[str, Any]) -> None:
    for mapper in (DetrMapper(config(INPUT__DETR_CROP=False), True), DetrMapper(config(), False)):
        for seed in range(5):
            seed_all_rng(seed)
            mapped = mapper(record)
            height, width = mapped["image"].shape[1:]
            assert width / height == pytest.approx(WIDTH / HEIGHT, abs=0.01)
            assert mapper.is_train == ("instances" in mapped) and "annotations" not in mapped


def test_the_config_names_it_and_two_crops_are_refused() -> None:
    assert DATASET_MAPPER_REGISTRY.get("DetrMapper") is DetrMapper
    assert DetrMapper.takes_annotations
    with pytest.raises(ValueError, match=r"INPUT.CROP.ENABLED and INPUT.DETR_CROP are both True"):
        DetrMapper(config(INPUT__CROP__ENABLED=True), True)
