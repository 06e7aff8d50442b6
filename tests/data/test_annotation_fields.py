"""Numbers of annotations arrive at the right targets, and without them nothing changes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

from weaksam_d2.artifacts import PseudoGroundTruth, write_pseudo_gt
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.data import AnnotationFieldsMapper, build_train_loader, register_pseudo_gt
from weaksam_d2.data.annotation_fields import build_annotated_mapper

BOXES = ([0, 0, 20, 20], [60, 40, 79, 59], [5, 30, 25, 50])
SCORES = (0.4, 0.7, 1.0)


def make_record(folder: Path, **extra: Any) -> dict[str, Any]:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    annotations = [
        {
            **{"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": number},
            **{"score_norm": SCORES[number], **extra},
        }
        for number, box in enumerate(BOXES)
    ]
    size = {"image_id": "a", "height": 60, "width": 80}
    return {"file_name": str(folder / "a.png"), **size, "annotations": annotations}


def mapper_of(crop: T.Transform, *, masks: bool = False) -> AnnotationFieldsMapper:
    return AnnotationFieldsMapper(
        True,
        fields=("score_norm",),
        augmentations=[crop],
        image_format="RGB",
        use_instance_mask=masks,
        recompute_boxes=masks,
    )


def test_a_score_stays_with_its_box_when_another_one_is_cut_off(tmp_path: Path) -> None:
    mapped = mapper_of(T.CropTransform(30, 20, 50, 40))(make_record(tmp_path))
    assert mapped["instances"].gt_classes.tolist() == [1]
    assert mapped["instances"].gt_score_norm.tolist() == pytest.approx([0.7])
    assert "annotations" not in mapped
    mapped = mapper_of(T.HFlipTransform(80))(make_record(tmp_path))
    assert mapped["instances"].gt_score_norm.tolist() == pytest.approx(SCORES)


def test_targets_are_those_of_detectron2(tmp_path: Path) -> None:
    square = [[2, 2, 18, 2, 18, 18, 2, 18]]
    record = make_record(tmp_path, segmentation=square)
    for masks in (False, True):
        ours = mapper_of(T.HFlipTransform(80), masks=masks)(record)["instances"]
        options = {"use_instance_mask": masks, "recompute_boxes": masks}
        stock = DatasetMapper(
            True, augmentations=[T.HFlipTransform(80)], image_format="RGB", **options
        )(record)["instances"]
        ours.remove("gt_score_norm")
        assert ours.get_fields().keys() == stock.get_fields().keys()
        assert torch.equal(ours.gt_boxes.tensor, stock.gt_boxes.tensor)
        assert torch.equal(ours.gt_classes, stock.gt_classes)
        if masks:
            assert torch.equal(ours.gt_masks.area(), stock.gt_masks.area())


def test_an_image_without_a_box_has_an_empty_field(tmp_path: Path) -> None:
    for crop in (T.CropTransform(40, 0, 10, 10), T.HFlipTransform(80)):
        record = make_record(tmp_path)
        if isinstance(crop, T.HFlipTransform):
            record["annotations"] = []
        mapped = mapper_of(crop)(record)["instances"]
        assert len(mapped) == 0 and mapped.gt_score_norm.shape == (0,)


def test_a_missing_number_names_the_image_and_crowd_regions_need_none(tmp_path: Path) -> None:
    record = make_record(tmp_path)
    del record["annotations"][1]["score_norm"]
    with pytest.raises(ValueError, match="image 'a' has no .*score_norm"):
        mapper_of(T.HFlipTransform(80))(record)
    record["annotations"][1]["iscrowd"] = 1
    assert len(mapper_of(T.HFlipTransform(80))(record)["instances"]) == 2


def test_only_score_weights_change_the_mapper() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    assert type(build_annotated_mapper(cfg)) is DatasetMapper
    cfg.MODEL.ROI_DROP.SCORE_WEIGHT = "score_norm"
    assert type(build_annotated_mapper(cfg)) is AnnotationFieldsMapper


def test_scores_of_a_pseudo_gt_file_reach_the_training_targets(tmp_path: Path) -> None:
    make_record(tmp_path)
    rows = [
        {
            **{"image_id": "a", "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]},
            **{"score": 0.1, "score_norm": score},
        }
        for (x1, y1, x2, y2), score in zip(BOXES, SCORES, strict=True)
    ]
    images = [{"id": "a", "file_name": "a.png", "height": 60, "width": 80}]
    info = {"rule": "adaptive", "parameters": {}, "detections_sha256": "0" * 64}
    truth = PseudoGroundTruth(images, rows, [{"id": 1, "name": "cat"}], {"weaksam": info})
    write_pseudo_gt(tmp_path / "pseudo_gt.json", truth)
    name = "annotation_fields_pseudo"
    register_pseudo_gt(name, json_file=tmp_path / "pseudo_gt.json", image_root=tmp_path)
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = (name,), 0, 1
    cfg.MODEL.ROI_DROP.SCORE_WEIGHT = "score_norm"
    try:
        (sample,) = next(iter(build_train_loader(cfg)))
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert sample["instances"].gt_score_norm.tolist() == pytest.approx(SCORES)
