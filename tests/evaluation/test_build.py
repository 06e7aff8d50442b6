"""Which evaluators a data set gets, the detections file, and gathering from several ranks."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances

from weaksam_d2.artifacts import CategoryMap, read_detections
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.evaluation import DetectionsWriter, MultilabelEvaluator, build_evaluator, collect
from weaksam_d2.ops import decode_rle

A = [1.5, 2.0, 11.25, 12.0]


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_weaksam_config(cfg)
    return cfg


@pytest.fixture
def register():
    """Function that registers a weak set and its annotated twin; both go after the test."""
    names = []

    def make(kind, *, year=None, evaluation=True, classes=("cat", "dog")):
        weak, twin = "evaluation_test_weak", "evaluation_test_eval"
        records = [{"image_id": i, "height": 50, "width": 50, "file_name": ""} for i in "ab"]
        annotation = {"bbox": A, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
        DatasetCatalog.register(weak, lambda: [{**r, "image_labels": [0]} for r in records])
        DatasetCatalog.register(
            twin, lambda: [{**r, "annotations": [dict(annotation)]} for r in records]
        )
        names.extend([weak, twin])
        extra = {} if year is None else {"year": year}
        MetadataCatalog.get(weak).set(
            thing_classes=["cat", "dog"],
            evaluator_type=kind,
            evaluation_name=twin if evaluation else "",
            thing_dataset_id_to_contiguous_id={3: 0, 17: 1},
            **extra,
        )
        MetadataCatalog.get(twin).set(thing_classes=list(classes), evaluator_type=kind, **extra)
        return weak

    yield make
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def output(boxes, scores, classes):
    instances = Instances((50, 50))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": instances}


def run(evaluator):
    evaluator.reset()
    wrong = [30.0, 30.0, 40.0, 40.0]
    evaluator.process([{"image_id": "b"}], [output([A, wrong], [2e-7, 3e-7], [0, 1])])
    evaluator.process([{"image_id": "a"}], [output([A], [0.5], [0])])
    return evaluator.evaluate()


def test_voc_gets_ap_corloc_and_the_file(cfg, register, tmp_path):
    figures = run(build_evaluator(cfg, register("voc", year=2007), tmp_path / "out"))
    assert figures["bbox"]["AP50"] == 100.0 and figures["corloc"]["CorLoc"] == 100.0
    assert figures["coco_bbox"]["AP"] == pytest.approx(100.0)
    assert figures["bbox"]["num_classes"] == 1
    rows = read_detections(tmp_path / "out" / "detections.json")
    assert [(r["image_id"], r["category_id"]) for r in rows] == [("a", 3), ("b", 17), ("b", 3)]
    assert rows[0]["bbox"] == [1.5, 2.0, 9.75, 10.0]
    assert [np.float32(r["score"]) for r in rows] == [np.float32(s) for s in (0.5, 3e-7, 2e-7)]


@pytest.mark.parametrize(("year", "key"), [(2007, "AP50_11point"), (2012, "AP50_area")])
def test_metric_follows_the_year(cfg, register, tmp_path, year, key):
    evaluator = build_evaluator(cfg, register("voc", year=year), tmp_path)
    evaluator.reset()
    wrong = [30.0, 30.0, 40.0, 40.0]
    evaluator.process([{"image_id": "a"}], [output([A], [0.9], [0])])
    evaluator.process([{"image_id": "b"}], [output([wrong, A], [0.8, 0.7], [0, 0])])
    figures = evaluator.evaluate()["bbox"]
    assert figures["AP50"] == figures[key]
    assert figures["AP50_11point"] != figures["AP50_area"]


def test_filtered_detections_get_no_ap(cfg, register, tmp_path):
    cfg.MODEL.WSOD.TEST_LABEL_FILTER = True
    figures = run(build_evaluator(cfg, register("voc", year=2007), tmp_path))
    assert set(figures) == {"corloc"}
    assert (tmp_path / "detections.json").exists()


def test_none_writes_the_file_only(cfg, register, tmp_path):
    assert run(build_evaluator(cfg, register("none", evaluation=False), tmp_path)) == {}
    assert len(read_detections(tmp_path / "detections.json")) == 3


def test_coco_gets_coco_ap_under_bbox(cfg, register, tmp_path):
    figures = run(build_evaluator(cfg, register("coco"), tmp_path))
    assert figures["bbox"]["AP75"] == pytest.approx(100.0)
    assert set(figures) == {"bbox", "corloc"}


def test_classifier_gets_tag_map(cfg, register, tmp_path):
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    assert isinstance(build_evaluator(cfg, register("voc"), tmp_path), MultilabelEvaluator)


def test_wrong_metadata_is_refused(cfg, register, tmp_path):
    with pytest.raises(ValueError, match="'lvis', expected one of"):
        build_evaluator(cfg, register("lvis"), tmp_path)


def test_weak_set_without_a_twin_is_refused(cfg, register, tmp_path):
    with pytest.raises(ValueError, match="evaluation_name"):
        build_evaluator(cfg, register("voc", evaluation=False), tmp_path)


def test_twin_with_other_classes_is_refused(cfg, register, tmp_path):
    with pytest.raises(ValueError, match="same classes"):
        build_evaluator(cfg, register("voc", classes=("dog", "cat")), tmp_path)


def test_integer_ids_stay_integers_in_the_file(tmp_path):
    categories = CategoryMap.from_metadata(SimpleNamespace(thing_classes=["cat"]))
    path = tmp_path / "detections.json"
    writer = DetectionsWriter([{"image_id": 12}, {"image_id": 5}], categories, path)
    writer.process([{"image_id": "5"}], [output([A], [0.25], [0])])
    writer.process([{"image_id": 12}], [output([A, A], [0.25, 0.75], [0, 0])])
    assert writer.evaluate() == {}
    rows = json.loads(path.read_text())
    assert [(r["image_id"], r["score"]) for r in rows] == [(12, 0.75), (12, 0.25), (5, 0.25)]
    assert rows[0]["category_id"] == 1


def test_ranks_are_joined_in_order_of_the_split(monkeypatch):
    monkeypatch.setattr(collect.comm, "synchronize", lambda: None)
    monkeypatch.setattr(collect.comm, "gather", lambda part, dst: [part, {"b": 2, "c": 3}])
    joined = collect.gather_by_image({"a": 1}, ["c", "a", "b"], distributed=True)
    assert list(joined.items()) == [("c", 3), ("a", 1), ("b", 2)]
    with pytest.raises(ValueError, match="'b' was predicted by two ranks"):
        collect.gather_by_image({"b": 1}, ["b"], distributed=True)
    monkeypatch.setattr(collect.comm, "is_main_process", lambda: False)
    assert collect.gather_by_image({"a": 1}, ["a"], distributed=True) is None


def test_masks_of_a_detector_are_written(tmp_path):
    categories = CategoryMap.from_metadata(SimpleNamespace(thing_classes=["cat"]))
    path = tmp_path / "detections.json"
    writer = DetectionsWriter([{"image_id": "a"}, {"image_id": "b"}], categories, path)
    masks = torch.zeros(2, 50, 50, dtype=torch.bool)
    masks[0, 2:12, 1:11], masks[1, :5, :7] = True, True
    given = output([A, A], [0.25, 0.75], [0, 0])
    given["instances"].pred_masks = masks
    nothing = output([], [], [])
    nothing["instances"].pred_masks = masks[:0]
    writer.process([{"image_id": "a"}, {"image_id": "b"}], [given, nothing])
    writer.evaluate()
    rows = read_detections(path)
    counts = [row["segmentation"]["counts"].encode() for row in rows]
    assert (decode_rle(counts, (50, 50)) == masks.flip(0).numpy()).all()


@pytest.fixture
def excluded(cfg, tmp_path):
    path = tmp_path / "overlap.txt"
    path.write_text("# also in the other set\nb\nelsewhere  # not in this one\n")
    cfg.TEST.EXCLUDE_IDS = str(path)
    return path


def test_excluded_images_are_in_no_figure_and_in_the_file(cfg, register, tmp_path, excluded):
    figures = run(build_evaluator(cfg, register("voc", year=2007), tmp_path / "out"))
    assert figures["images"] == {"evaluated": 1.0, "excluded": 1.0}
    assert figures["bbox"]["AP50-cat"] == figures["corloc"]["CorLoc-cat"] == 100.0
    assert math.isnan(figures["bbox"]["AP50-dog"])
    assert (tmp_path / "out" / "excluded_ids.txt").read_text() == "b\n"
    assert [r["image_id"] for r in read_detections(tmp_path / "out/detections.json")] == list("abb")


def test_excluded_images_are_in_no_figure_of_a_classifier(cfg, register, tmp_path, excluded):
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    evaluator = build_evaluator(cfg, register("voc"), tmp_path)
    evaluator.reset()
    for name in "ab":
        evaluator.process([{"image_id": name}], [{"class_logits": torch.tensor([1.0, 0.0])}])
    figures = evaluator.evaluate()
    assert figures["images"] == {"evaluated": 1.0, "excluded": 1.0}
    assert figures["tags"]["mAP"] == 100.0


def test_a_list_of_excluded_images_must_be_one(cfg, register, tmp_path, excluded):
    name = register("voc", year=2007)
    excluded.write_text("000001 -1\n")
    with pytest.raises(ValueError, match="overlap.txt:1: .*expected one image id"):
        build_evaluator(cfg, name, tmp_path)
    excluded.write_text("# none\n")
    with pytest.raises(ValueError, match="lists no image id"):
        build_evaluator(cfg, name, tmp_path)
    excluded.unlink()
    with pytest.raises(FileNotFoundError):
        build_evaluator(cfg, name, tmp_path)


def test_the_library_and_the_resamples_come_from_the_config(cfg, register, tmp_path):
    cfg.TEST.BOOTSTRAP = 5
    figures = run(build_evaluator(cfg, register("voc", year=2007), tmp_path))
    assert {"AP50_low", "AP50_high"} <= set(figures["bbox"])
    assert {"AP_low", "AP_high"} <= set(figures["coco_bbox"])
    assert {"CorLoc_low", "CorLoc_high"} <= set(figures["corloc"])
    cfg.TEST.COCO_EVAL = "quick"
    with pytest.raises(ValueError, match="TEST.COCO_EVAL is 'quick'"):
        build_evaluator(cfg, "evaluation_test_weak", tmp_path)
