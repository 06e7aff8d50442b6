"""COCO files: sparse ids, class subsets, crowds."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.data import register_coco_evaluation, register_coco_weak, weak_records


@pytest.fixture()
def coco(tmp_path: Path, save_image: Callable[..., Path]) -> dict[str, Path]:
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 60, "width": 80} for n in (9, 4)]
    for image in images:
        save_image(tmp_path / "images" / str(image["file_name"]))
    rows = [(9, 90, [1, 2, 3, 4], 0), (9, 7, [0, 0, 5, 5], 1), (4, 7, [5, 5, 10, 0], 0)]
    annotations = [
        {"id": i, "image_id": m, "category_id": c, "bbox": b, "iscrowd": k, "area": 1}
        for i, (m, c, b, k) in enumerate(rows, start=1)
    ]
    categories = [{"id": 90, "name": "brush"}, {"id": 7, "name": "train"}]
    path = tmp_path / "instances.json"
    data = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(data))
    return {"json_file": path, "image_root": tmp_path / "images"}


def test_sparse_category_ids_become_contiguous(coco: dict[str, Path]) -> None:
    register_coco_evaluation("c_eval", **coco)
    metadata = MetadataCatalog.get("c_eval")
    assert metadata.thing_classes == ["train", "brush"]
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 90: 1}
    first, second = DatasetCatalog.get("c_eval")
    assert (first["image_id"], second["image_id"]) == ("9", "4")
    assert first["annotations"][0]["bbox"] == [1, 2, 4, 6]
    assert [a["category_id"] for a in first["annotations"]] == [1, 0]
    assert second["annotations"] == []  # a box without area is no object


def test_crowds_give_no_image_label(coco: dict[str, Path]) -> None:
    register_coco_weak("c_weak", **coco)
    assert [r["image_labels"] for r in weak_records("c_weak")] == [[1], []]
    assert MetadataCatalog.get("c_weak").get("json_file") is None


def test_a_subset_of_classes_keeps_its_own_order(coco: dict[str, Path]) -> None:
    register_coco_weak("brush_weak", classes=["brush"], **coco)
    assert [r["image_labels"] for r in weak_records("brush_weak")] == [[0], []]
    with pytest.raises(ValueError, match=r"\['fork'\]"):
        register_coco_weak("fork_weak", classes=["fork"], **coco)


def test_missing_images_are_named(coco: dict[str, Path]) -> None:
    register_coco_weak("c_weak", **coco)
    (coco["image_root"] / "4.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="4.jpg"):
        weak_records("c_weak")
