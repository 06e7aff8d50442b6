"""Instance masks of drawn VOC folders."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as coco_mask

from weaksam_d2.data import (
    prepare_datasets,
    register_subset,
    register_voc_segmentation,
    weak_records,
)
from weaksam_d2.data.datasets.voc_masks import (
    DERIVED_TRUTH,
    load_derived_instances,
    load_voc_instances,
)
from weaksam_d2.engine.cli import base_config

HEIGHT, WIDTH = 30, 50
CAT, DOG = 8, 12  # values of the class PNGs
XML = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def save_labels(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8), mode="P")
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(path)


def add_image(root: Path, name: str, objects: str) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / f"JPEGImages/{name}.png")
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    (root / f"Annotations/{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for kind in ("Main", "Segmentation"):
        with (root / f"ImageSets/{kind}/val.txt").open("a") as file:
            file.write(f"{name}\n")


@pytest.fixture()
def forget() -> Iterator[None]:
    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def decoded(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(coco_mask.decode(row["segmentation"]), bool)


def test_an_object_is_its_pixels_and_the_border_is_none(tmp_path: Path) -> None:
    add_image(tmp_path, "x", "")
    objects, kinds = np.zeros((2, HEIGHT, WIDTH), np.uint8)
    objects[2:10, 3:13], kinds[2:10, 3:13] = 1, CAT
    objects[2:10, 13], kinds[2:10, 13] = 255, 255
    objects[2:10, 14:20], kinds[2:10, 14:20] = 2, CAT
    objects[20:25, 5:15], kinds[20:25, 5:15] = 3, DOG
    save_labels(tmp_path / "SegmentationObject/x.png", objects)
    save_labels(tmp_path / "SegmentationClass/x.png", kinds)
    (record,) = load_voc_instances(tmp_path, "val", ("dog", "cat"))
    rows = record["annotations"]
    assert [(r["category_id"], r["bbox"]) for r in rows] == [
        (1, [3.0, 2.0, 13.0, 10.0]),
        (1, [14.0, 2.0, 20.0, 10.0]),
        (0, [5.0, 20.0, 15.0, 25.0]),
    ]
    for number, row in enumerate(rows, start=1):
        assert np.array_equal(decoded(row), objects == number)
    assert len(load_voc_instances(tmp_path, "val", ("dog",))[0]["annotations"]) == 1
    kinds[20:25, 5:15] = 0
    save_labels(tmp_path / "SegmentationClass/x.png", kinds)
    with pytest.raises(ValueError, match="object 3 of 'x'"):
        load_voc_instances(tmp_path, "val")


def derived_folder(root: Path) -> np.ndarray:
    """A lone cat, two cats whose boxes meet, a difficult dog, cat pixels without a box."""
    boxes = [("cat", 0, 3, 3, 12, 12), ("cat", 0, 21, 3, 30, 12), ("cat", 0, 28, 3, 40, 12)]
    boxes += [("dog", 1, 5, 20, 14, 28)]
    add_image(root, "x", "".join(XML.format(*one) for one in boxes))
    add_image(root, "y", XML.format("dog", 0, 1, 1, 9, 9))
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[4:10, 4:10] = CAT  # inside [2, 2, 12, 12]
    labels[4:10, 22:38] = CAT
    labels[20:25, 40:45] = CAT
    labels[21:27, 6:12] = DOG
    labels[10, 4:10] = 255
    save_labels(root / "SegmentationClass/x.png", labels)
    return labels


def test_derived_masks_are_those_of_boxes_that_stand_alone(tmp_path: Path) -> None:
    labels = derived_folder(tmp_path)
    (record,) = load_derived_instances(tmp_path, "val", ("cat", "dog"))
    lone, crowd, dog = record["annotations"]
    assert (lone["category_id"], lone["iscrowd"], lone["bbox"]) == (0, 0, [2.0, 2.0, 12.0, 12.0])
    expected = np.zeros_like(labels, bool)
    expected[4:10, 4:10] = True
    assert np.array_equal(decoded(lone), expected)
    assert (crowd["category_id"], crowd["iscrowd"]) == (0, 1)
    assert np.array_equal(decoded(crowd), (labels == CAT) & ~expected)
    assert (dog["category_id"], dog["iscrowd"]) == (1, 1)  # the difficult one
    assert np.array_equal(decoded(dog), labels == DOG)


def test_a_folder_without_class_masks_is_an_error(tmp_path: Path) -> None:
    add_image(tmp_path, "x", XML.format("cat", 0, 3, 3, 12, 12))
    with pytest.raises(FileNotFoundError, match="no image of 'val' has a class mask"):
        load_derived_instances(tmp_path, "val")


def test_a_voc_folder_with_class_masks_gets_derived_truth(tmp_path: Path, forget: None) -> None:
    derived_folder(tmp_path)
    cfg = base_config()
    cfg.DATASETS.VOC = (("drawn", str(tmp_path), "val", 2012, ("cat", "dog")),)
    cfg.DATASETS.TEST = ("drawn_weak@1",)
    prepare_datasets(cfg)
    prepare_datasets(cfg)
    weak = MetadataCatalog.get("drawn_weak")
    assert weak.mask_evaluation_name == "drawn_masks"
    assert MetadataCatalog.get("drawn_masks").mask_truth == DERIVED_TRUTH
    assert [r["image_id"] for r in weak_records("drawn_weak")] == ["x", "y"]
    assert [r["image_id"] for r in DatasetCatalog.get("drawn_masks")] == ["x"]
    for count in (1, 2):  # "y" has not been outlined
        register_subset(f"drawn_weak@{count}")
        twin = MetadataCatalog.get(f"drawn_weak@{count}").mask_evaluation_name
        assert twin == f"drawn_masks@{count}"
        assert [r["image_id"] for r in DatasetCatalog.get(twin)] == ["x"]
        assert MetadataCatalog.get(twin).mask_truth == DERIVED_TRUTH


def test_a_segmentation_split_is_weak_with_a_twin_that_has_masks(
    tmp_path: Path, forget: None
) -> None:
    # Tags come from the names of all objects, difficult ones too, and from no mask.
    add_image(tmp_path, "x", XML.format("dog", 1, 1, 1, 9, 9) + XML.format("cat", 0, 1, 1, 9, 9))
    for folder, value in (("Object", 1), ("Class", CAT)):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[2:10, 3:13] = value
        save_labels(tmp_path / f"Segmentation{folder}/x.png", labels)
    register_voc_segmentation("drawn_seg", root=tmp_path, split="val", year=2012)
    (record,) = weak_records("drawn_seg_weak")
    assert record["image_labels"] == [7, 11] and "annotations" not in record
    assert MetadataCatalog.get("drawn_seg_weak").difficult_in_labels
    twin = MetadataCatalog.get("drawn_seg_weak").mask_evaluation_name
    assert (
        twin == "drawn_seg_eval" and "segmentation" in DatasetCatalog.get(twin)[0]["annotations"][0]
    )
    assert "voc_2012_seg_val_weak" in DatasetCatalog.list()
