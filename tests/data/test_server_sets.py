"""Test sets without annotations: images in order, nothing known, no evaluator."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.data import weak_records
from weaksam_d2.data.datasets.server_sets import register_coco_server_set, register_voc_server_set


@pytest.fixture
def images(tmp_path: Path, save_image: Callable[..., Path]) -> Path:
    for name in ("2008_000002", "2008_000001"):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg", height=30, width=50)
    folder = tmp_path / "ImageSets" / "Main"
    folder.mkdir(parents=True)
    (folder / "test.txt").write_text("2008_000002\n2008_000001\n")
    return tmp_path


def test_voc_images_without_xml_are_a_weak_set_of_unknown_classes(images: Path) -> None:
    register_voc_server_set("server_voc", root=images, split="test", year=2012)
    records = weak_records("server_voc")
    assert [record["image_id"] for record in records] == ["2008_000002", "2008_000001"]
    assert (records[0]["height"], records[0]["width"]) == (30, 50)
    assert records[0]["image_labels"] == [] and len(records[0]["unknown_labels"]) == 20
    metadata = MetadataCatalog.get("server_voc")
    assert metadata.evaluator_type == "none" and len(metadata.thing_classes) == 20
    (images / "JPEGImages" / "2008_000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="2008_000001"):
        weak_records("server_voc")


def test_coco_image_info_needs_no_annotations(images: Path) -> None:
    info = {
        "images": [
            {"id": 7, "file_name": "2008_000002.jpg", "height": 30, "width": 50},
            {"id": 12, "file_name": "2008_000001.jpg", "height": 30, "width": 50},
        ]
    }
    (images / "info.json").write_text(json.dumps(info))
    register_coco_server_set(
        "server_coco",
        json_file=images / "info.json",
        image_root=images / "JPEGImages",
        categories=[{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    )
    assert [record["image_id"] for record in weak_records("server_coco")] == ["7", "12"]
    categories = CategoryMap.from_metadata(MetadataCatalog.get("server_coco"))
    assert (categories.names, categories.dataset_ids) == (["cat", "dog"], [17, 18])


def test_the_sets_of_the_servers_have_names() -> None:
    known = set(DatasetCatalog.list())
    assert {"voc_2012_test_weak", "coco_2017_test-dev_weak"} <= known
    assert "voc_2012_test_eval" not in known
