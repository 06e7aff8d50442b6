"""Each kind of artifact is recognized by what lies at its path, and drawn on the image."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import (
    CamMaps,
    CamStoreWriter,
    Prompts,
    PromptSetWriter,
    ProposalStoreWriter,
    PseudoGroundTruth,
    write_detections,
    write_json,
    write_pseudo_gt,
)
from weaksam_d2.engine.analysis.artifact_pictures import DrawingOptions, open_drawing, side_by_side

SIZE = (60, 80)
IMAGE = np.full((*SIZE, 3), 200, np.uint8)
NAME = "pictures_weak"


@pytest.fixture
def names():
    MetadataCatalog.get(NAME).set(
        thing_classes=["cat", "dog"], thing_dataset_id_to_contiguous_id={3: 0, 17: 1}
    )
    yield
    MetadataCatalog.remove(NAME)


def write_all(folder: Path) -> dict[str, Path]:
    with ProposalStoreWriter(folder / "boxes", source_names=["Grid"]) as writer:
        boxes = np.array([(4, 4, 40, 30), (10, 20, 70, 50)], np.float32)
        writer.add("a", boxes, sources=[0, 0], image_size=SIZE)
    with PromptSetWriter(folder / "prompts", source_names=["Grid"], grid=None) as writer:
        points = np.array([[20, 20]], np.float32)
        prompts = Prompts.single_points(points, source="Grid", source_names=("Grid",))
        writer.add("a", prompts, SIZE)
    flags = {"class_names": ["cat", "dog"], "network": "CNN", "scales": [1.0]}
    with CamStoreWriter(folder / "cams", heads=0, blocks=(), **flags) as writer:
        heat = np.zeros((1, 4, 5), np.float32)
        heat[0, 1, 2] = 1
        coarse = (heat,)
        writer.add("a", CamMaps(classes=np.array([1]), coarse=coarse, image_size=SIZE, gate="gt"))
    row = {"image_id": "a", "category_id": 17, "bbox": [10.0, 10.0, 30.0, 20.0], "score": 0.5}
    write_detections(folder / "found" / "detections.json", [row])
    image = {"id": "a", "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}
    labels = PseudoGroundTruth(
        images=[image],
        annotations=[{**row, "score_norm": 1.0}],
        categories=[{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}],
        info={"weaksam": {"rule": "top1", "parameters": {}, "detections_sha256": "0" * 64}},
    )
    write_pseudo_gt(folder / "labels" / "pseudo_gt.json", labels)
    return {name: folder / name for name in ("boxes", "prompts", "cams", "found", "labels")}


def test_every_kind_of_artifact_is_drawn(tmp_path, names):
    for name, path in write_all(tmp_path).items():
        picture = open_drawing(path, NAME, DrawingOptions())(IMAGE, "a")
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        assert (picture != 200).any(), name


def test_limits_and_thresholds_reach_the_drawing(tmp_path, names):
    paths = write_all(tmp_path)
    every = open_drawing(paths["boxes"], NAME, DrawingOptions())(IMAGE, "a")
    first = open_drawing(paths["boxes"], NAME, DrawingOptions(limit=1))(IMAGE, "a")
    assert (first != 200).sum() < (every != 200).sum()
    none = open_drawing(paths["found"], NAME, DrawingOptions(score_thresh=0.9))(IMAGE, "a")
    assert (none == 200).all()
    with pytest.raises(ValueError, match="no fine maps"):
        open_drawing(paths["cams"], NAME, DrawingOptions(cam_kind="fine"))(IMAGE, "a")


def test_an_image_without_annotations_stays_plain(tmp_path, names):
    paths = write_all(tmp_path)
    for name in ("found", "labels"):
        assert (open_drawing(paths[name], NAME, DrawingOptions())(IMAGE, "b") == 200).all()


def test_what_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no artifact: expected a folder with index"):
        open_drawing(tmp_path, NAME, DrawingOptions())
    write_json(tmp_path / "index.json", {"format": "other/3"})
    with pytest.raises(ValueError, match=r"format 'other/3', expected one of"):
        open_drawing(tmp_path, NAME, DrawingOptions())


def test_pictures_stand_in_a_row_under_their_titles():
    low, high = np.full((10, 20, 3), 9, np.uint8), np.full((30, 40, 3), 7, np.uint8)
    row = side_by_side({"one": low, "two": high})
    assert row.shape == (60, 68, 3)
    assert (row[30:40, :20] == 9).all() and (row[30:, 28:] == 7).all()
    assert (row[41:, :20] == 255).all() and (row[:30] < 128).any()
