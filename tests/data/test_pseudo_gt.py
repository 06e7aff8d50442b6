"""Pseudo ground truth files with little or nothing in them, as training sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import PseudoGroundTruth, write_pseudo_gt
from weaksam_d2.data.pseudo_gt import register_pseudo_gt_of

INFO = {"weaksam": {"rule": "all", "parameters": {}, "detections_sha256": "0"}}
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


@pytest.fixture
def weak() -> Iterator[str]:
    name = "weak_of_pseudo_gt_test"
    known = set(DatasetCatalog.list())
    records = [
        {"image_id": i, "file_name": f"{i}.jpg", "height": 8, "width": 9, "image_labels": [0, 1]}
        for i in "ab"
    ]
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cat", "dog"])
    yield name
    for new in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(new)
        MetadataCatalog.pop(new)


def registered(weak: str, path: Path, annotations: list[dict[str, Any]], images: str) -> list[Any]:
    rows = [{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 9} for i in images]
    write_pseudo_gt(path, PseudoGroundTruth(rows, annotations, CATEGORIES, INFO))
    name = register_pseudo_gt_of(weak, path)
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    return list(DatasetCatalog.get(name))


def test_a_class_without_boxes_stays_a_class(weak: str, tmp_path: Path) -> None:
    row = {"image_id": "b", "category_id": 2, "bbox": [1, 1, 2, 2], "score": 0.5, "score_norm": 1.0}
    records = registered(weak, tmp_path / "p.json", [row], "ab")
    assert [len(record["annotations"]) for record in records] == [0, 1]
    assert records[1]["annotations"][0]["category_id"] == 1
    assert records[1]["annotations"][0]["score_norm"] == 1.0


def test_a_file_without_boxes_is_images_without_boxes(weak: str, tmp_path: Path) -> None:
    records = registered(weak, tmp_path / "p.json", [], "ab")
    assert [record["annotations"] for record in records] == [[], []]
    assert registered(weak, tmp_path / "q.json", [], "") == []
