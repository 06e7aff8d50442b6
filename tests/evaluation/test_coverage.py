"""Coverage image by image: the spec's example, first boxes, difficult objects and crowds."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.data import register_coco_evaluation, register_voc_evaluation
from weaksam_d2.evaluation import GroundTruth, counted_objects, covered_iou, measure_coverage

OBJECTS = np.array([[0, 0, 10, 10], [0, 0, 12, 10], [50, 50, 60, 60]], np.float32)
BOXES = np.array([[0, 0, 11, 10], [52, 50, 62, 60]], np.float32)
NONE = np.zeros((0, 4), np.float32)


def truth(boxes):
    flags = np.zeros(len(boxes), bool)
    return GroundTruth(np.float32(boxes), np.zeros(len(boxes), np.int64), flags, flags, (90, 90))


def random_boxes(rng, count):
    corner = rng.uniform(0, 70, (count, 2))
    sides = rng.uniform(5, 40, (count, 2))
    return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)


def test_example_of_the_specification():
    coverage = measure_coverage("ours", [truth(OBJECTS)], [BOXES], limits=(1,))
    assert coverage.covered["one2one"][0] == pytest.approx([0, 0.9167, 0.6667], abs=1e-4)
    assert coverage.covered["any"][0] == pytest.approx([0.9091, 0.9167, 0.6667], abs=1e-4)
    assert coverage.covered["one2one"][1] == pytest.approx([0, 0.9167, 0], abs=1e-4)
    assert coverage.counts.tolist() == [2]
    assert (coverage.mean_count(), coverage.mean_count(1), coverage.mean_count(9)) == (2, 1, 2)


def test_first_boxes_agree_with_cut_lists():
    rng = np.random.default_rng(3)
    objects = [random_boxes(rng, n) for n in (3, 0, 7, 1)]
    boxes = [random_boxes(rng, n) for n in (12, 5, 0, 30)]
    coverage = measure_coverage(
        "a", [truth(one) for one in objects], iter(boxes), limits=(1, 4, 99)
    )
    for limit, cut in ((1, 1), (4, 4), (99, 99), (0, 99)):
        expected = covered_iou(objects, [one[:cut] for one in boxes], match="one2one")
        assert coverage.covered["one2one"][limit].tolist() == expected.tolist()
    assert coverage.covered["any"][0].tolist() == covered_iou(objects, boxes, match="any").tolist()


def test_an_image_without_proposals_has_missed_its_objects():
    coverage = measure_coverage("a", [truth(OBJECTS), truth(OBJECTS)], [OBJECTS, NONE])
    assert coverage.covered["any"][0].tolist() == [1, 1, 1, 0, 0, 0]
    assert coverage.covered["one2one"][0].tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="shorter"):
        measure_coverage("a", [truth(OBJECTS), truth(OBJECTS)], [OBJECTS])
    with pytest.raises(ValueError, match=r"must be positive, got \[0, 5\]"):
        measure_coverage("a", [truth(OBJECTS)], [OBJECTS], limits=(5, 0))


@pytest.fixture
def forget_datasets():
    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_difficult_objects_of_voc_count_unless_left_out(tmp_path: Path, forget_datasets):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (80, 60)).save(tmp_path / "JPEGImages" / "a.jpg")
    rows = "".join(
        f"<object><name>cat</name><difficult>{hard}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
        f"<xmax>{x}</xmax><ymax>10</ymax></bndbox></object>"
        for hard, x in ((0, 10), (1, 12))
    )
    size = "<size><width>80</width><height>60</height><depth>3</depth></size>"
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation>{size}{rows}</annotation>")
    (tmp_path / "ImageSets" / "Main" / "all.txt").write_text("a\n")
    register_voc_evaluation("cov_voc", root=tmp_path, split="all", year=2007, classes=["cat"])
    records = DatasetCatalog.get("cov_voc")
    box = np.array([[0, 0, 11, 10]], np.float32)  # a little nearer to the difficult object
    # Among both, the difficult object takes the only box and the other one is missed.
    both = measure_coverage("a", counted_objects(records), [box]).covered
    assert both["one2one"][0] == pytest.approx([0, 0.9167], abs=1e-4)
    # Left out, it takes nothing away.
    easy = measure_coverage("a", counted_objects(records, difficult=False), [box]).covered
    assert easy["one2one"][0] == pytest.approx([0.9091], abs=1e-4)


def test_crowds_of_coco_never_count(tmp_path: Path, forget_datasets):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "images" / "1.jpg")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": box, "iscrowd": crowd, "area": 1}
        for i, (box, crowd) in enumerate([([0, 0, 10, 10], 0), ([0, 0, 12, 10], 1)], start=1)
    ]
    images = [{"id": 1, "file_name": "1.jpg", "height": 60, "width": 80}]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "x"}]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    register_coco_evaluation(
        "cov_coco", json_file=tmp_path / "c.json", image_root=tmp_path / "images"
    )
    for difficult in (True, False):
        counted = counted_objects(DatasetCatalog.get("cov_coco"), difficult=difficult)
        assert counted[0].boxes.tolist() == [[0, 0, 10, 10]] and counted[0].size == (60, 80)
        box = np.array([[0, 0, 11, 10]], np.float32)
        found = measure_coverage("a", counted, [box]).covered["one2one"][0]
        assert found == pytest.approx([0.9091], abs=1e-4)
