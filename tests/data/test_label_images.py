"""True label images of VOC folders and of users, and who may see them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.data import (
    prepare_datasets,
    register_label_folder,
    register_subset,
    register_tagged_folder,
    register_voc_labels,
    register_voc_segmentation,
    weak_records,
)
from weaksam_d2.data.datasets.label_images import voc_label_lut
from weaksam_d2.engine.cli import base_config
from weaksam_d2.evaluation import truth_reader

CAT, DOG, SOFA = 8, 12, 18  # values of VOC's class masks


def write_masks(root: Path, ids: list[str], seed: int, folder: str = "SegmentationClass") -> None:
    rng = np.random.default_rng(seed)
    (root / folder).mkdir(exist_ok=True)
    for image_id in ids:
        values = rng.choice([0, CAT, DOG, SOFA, 255], (60, 80)).astype(np.uint8)
        image = Image.fromarray(values)
        image.putpalette([(7 * v) % 256 for v in range(256) for _ in range(3)])
        assert image.mode == "P"
        image.save(root / folder / f"{image_id}.png")


def write_lists(root: Path) -> None:
    (root / "ImageSets" / "Segmentation").mkdir()
    text = (root / "ImageSets" / "Main" / "all.txt").read_text()
    (root / "ImageSets" / "Segmentation" / "all.txt").write_text(text)


def values_of(root: Path, image_id: str) -> np.ndarray:
    return np.array(Image.open(root / "SegmentationClass" / f"{image_id}.png"))


def test_the_table_follows_the_classes_that_were_chosen() -> None:
    full = voc_label_lut()
    assert full[:21].tolist() == list(range(21)) and full[255] == 255
    assert set(full[21:255].tolist()) == {254}  # stands for nothing
    chosen = voc_label_lut(("dog", "cat"))
    assert (chosen[DOG], chosen[CAT], chosen[SOFA], chosen[0]) == (1, 2, 0, 0)
    with pytest.raises(ValueError, match="'unicorn'"):
        voc_label_lut(("cat", "unicorn"))


def test_class_masks_of_a_folder_become_true_labels(voc_root: Path) -> None:
    write_masks(voc_root, ["000001", "000004"], seed=0)
    common: dict[str, Any] = {"root": voc_root, "split": "all", "year": 2012}
    register_voc_labels("toy_labels", classes=("dog", "cat"), **common)
    register_voc_labels("toy_labels", classes=("dog", "cat"), **common)
    truth = truth_reader("toy_labels")
    assert truth.image_ids == ["000001", "000004"]  # of the others nobody drew a mask
    values = values_of(voc_root, "000004")
    expected = np.select([values == DOG, values == CAT, values == 255], [1, 2, 255], 0)
    assert (truth("000004") == expected).all()
    with pytest.raises(ValueError, match="'toy_labels' is taken"):
        register_voc_labels("toy_labels", **common)


def test_a_folder_without_masks_is_an_error(voc_root: Path) -> None:
    register_voc_labels("toy_labels", root=voc_root, split="all", year=2012)
    with pytest.raises(FileNotFoundError, match=r"no image of split 'all' has a label image"):
        truth_reader("toy_labels")


def test_a_configured_folder_has_true_labels_and_its_parts_too(voc_root: Path) -> None:
    write_masks(voc_root, ["000001", "000004"], seed=0)
    cfg = base_config()
    cfg.DATASETS.VOC = (("drawn", str(voc_root), "all", 2012, ("cat", "dog")),)
    cfg.DATASETS.TEST = ("drawn_weak@2", "drawn_weak@4")
    for _ in range(2):
        prepare_datasets(cfg)
    assert truth_reader("drawn_weak").image_ids == ["000001", "000004"]
    assert truth_reader("drawn_weak@2").name == "drawn_labels@2"
    assert truth_reader("drawn_weak@2").image_ids == ["000001"]  # of 000001 and 000003
    assert truth_reader("drawn_weak@4").image_ids == ["000001", "000004"]
    whole, part = truth_reader("drawn_weak"), truth_reader("drawn_weak@2")
    assert (whole("000001") == part("000001")).all() and part.space == whole.space


def test_classes_that_voc_does_not_have_get_no_true_labels(voc_root: Path) -> None:
    write_masks(voc_root, ["000001"], seed=0)
    cfg = base_config()
    cfg.DATASETS.VOC = (("own", str(voc_root), "all", 2012, ("cat", "unicorn")),)
    prepare_datasets(cfg)
    assert "own_labels" not in DatasetCatalog.list()
    assert not MetadataCatalog.get("own_weak").get("sem_seg_evaluation_name", "")


def test_a_split_without_objects_has_tags_and_true_labels(voc_root: Path) -> None:
    write_lists(voc_root)
    write_masks(voc_root, ["000002"], seed=0, folder="SegmentationClassAug")
    arguments: dict[str, Any] = {"instances": False, "mask_folder": "SegmentationClassAug"}
    register_voc_segmentation("aug", root=voc_root, split="all", year=2012, **arguments)
    assert "aug_eval" not in DatasetCatalog.list()
    tags = {record["image_id"]: record["image_labels"] for record in weak_records("aug_weak")}
    # The cat of 000002 is difficult: segmentation counts it.
    assert tags == {"000001": [7], "000002": [7, 11], "000003": [], "000004": [11, 17]}
    assert truth_reader("aug_weak").image_ids == ["000002"]


def test_the_user_s_own_label_images(tmp_path: Path, save_image: Callable[..., Path]) -> None:
    for name in ("x", "y"):
        save_image(tmp_path / "images" / f"{name}.jpg", height=2, width=3)
    (tmp_path / "tags.csv").write_text("x.jpg,cat\ny.jpg,dog;cat\n")
    with pytest.raises(KeyError, match="register it before its labels"):
        register_label_folder("own_labels", weak_name="own_weak", folder=tmp_path / "labels")
    register_tagged_folder("own_weak", image_root=tmp_path / "images", tags=tmp_path / "tags.csv")
    (tmp_path / "labels").mkdir()
    values = np.array([[0, 1, 2], [255, 0, 1]], np.uint8)
    Image.fromarray(values).save(tmp_path / "labels" / "y.png")
    register_label_folder("own_labels", weak_name="own_weak", folder=tmp_path / "labels")
    with pytest.raises(ValueError, match="a data set has one truth"):
        register_label_folder("others", weak_name="own_weak", folder=tmp_path / "images")
    truth = truth_reader("own_weak")
    assert truth.space.classes == ("background", "cat", "dog") and truth.image_ids == ["y"]
    assert (truth("y") == values).all()
    Image.fromarray(values + 1).save(tmp_path / "labels" / "y.png")
    with pytest.raises(ValueError, match=r"y.png' holds \[3\]"):
        truth_reader("own_weak")("y")


def test_weak_records_stay_as_they_are_when_all_masks_change(voc_root: Path) -> None:
    write_lists(voc_root)
    ids = ["000001", "000002", "000003", "000004"]
    write_masks(voc_root, ids, seed=0)
    write_masks(voc_root, ids, seed=0, folder="SegmentationObject")
    cfg = base_config()
    cfg.DATASETS.VOC = (("drawn", str(voc_root), "all", 2012, ""),)
    prepare_datasets(cfg)
    register_voc_segmentation("seg", root=voc_root, split="all", year=2012)
    register_subset("seg_weak@2")
    names = ("drawn_weak", "seg_weak", "seg_weak@2")
    before = {name: weak_records(name) for name in names}
    true_before = {name: truth_reader(name)("000001") for name in names}
    write_masks(voc_root, ids, seed=1)
    write_masks(voc_root, ids, seed=1, folder="SegmentationObject")
    assert before == {name: weak_records(name) for name in names}
    for name in names:
        assert not any("sem_seg_file_name" in record for record in before[name])
        assert (truth_reader(name)("000001") != true_before[name]).any()  # they did change
    for image_id in ids:
        (voc_root / "SegmentationClass" / f"{image_id}.png").unlink()
        (voc_root / "SegmentationObject" / f"{image_id}.png").unlink()
    assert before == {name: weak_records(name) for name in names}


def test_the_masks_of_photographs_show_tagged_classes_only(real_data: Path) -> None:
    root = real_data / "voc2012"
    register_voc_segmentation("photos", root=root, split="val", year=2012, instances=False)
    register_subset("photos_weak@40")
    truth = truth_reader("photos_weak@40")
    records = weak_records("photos_weak@40")
    assert truth.image_ids == [record["image_id"] for record in records]
    for record in records:
        label = truth(record["image_id"])
        assert label.shape == (record["height"], record["width"])
        assert set(label.ravel().tolist()) - {0, 255} <= {c + 1 for c in record["image_labels"]}


def test_the_known_sets_name_their_true_labels() -> None:
    known = set(DatasetCatalog.list())
    for split in ("train", "trainaug", "val"):
        name = f"voc_2012_seg_{split}"
        assert {f"{name}_weak", f"{name}_labels"} <= known
        assert MetadataCatalog.get(f"{name}_weak").sem_seg_evaluation_name == f"{name}_labels"
    assert "voc_2012_seg_test_weak" in known and "voc_2012_seg_test_labels" not in known
    for name in ("coco_2014_train", "coco_2014_val", "scenes_demo_train"):
        assert MetadataCatalog.get(f"{name}_weak").sem_seg_evaluation_name == f"{name}_eval"
    assert MetadataCatalog.get("voc_2012_seg_trainaug_weak").difficult_in_labels
