"""The VOC reader: splits, XML, class subsets, weak sets and their twins."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from weaksam_d2.data import (
    image_size,
    register_voc_evaluation,
    register_voc_weak,
    weak_records,
)
from weaksam_d2.data.datasets.voc import VOC_CLASSES, load_voc_records, read_split


def _split(root: Path, text: str) -> Path:
    path = root / "ImageSets" / "Main" / "some.txt"
    path.write_text(text)
    return path


def test_boxes_are_half_open_and_missing_tags_have_defaults(voc_root: Path) -> None:
    records = {r["image_id"]: r for r in load_voc_records(voc_root, "all")}
    first = records["000001"]
    assert (first["height"], first["width"]) == (60, 80)
    assert first["annotations"] == [
        {
            "bbox": [0.0, 0.0, 10.0, 20.0],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": VOC_CLASSES.index("cat"),
            "iscrowd": 0,
            "difficult": 0,
        }
    ]
    assert records["000004"]["annotations"][0]["bbox"] == [0.5, 1.0, 79.5, 60.0]
    assert records["000004"]["annotations"][0]["difficult"] == 0
    assert [a["difficult"] for a in records["000002"]["annotations"]] == [1, 0]


def test_a_split_of_one_image_and_blank_lines_are_read(voc_root: Path) -> None:
    assert read_split(_split(voc_root, "\n000003")) == ["000003"]


def test_class_splits_keep_the_images_that_show_the_class(voc_root: Path) -> None:
    text = "000001  1\n000002 -1\n000003  0\n000004  1\n"
    assert read_split(_split(voc_root, text)) == ["000001", "000004"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a\nb\na\n", r"twice.*\['a'\]"),
        ("a 1 2\n", ":1:"),
        ("a\nb 7\n", ":2:.*expected"),
    ],
)
def test_malformed_splits_name_file_and_place(voc_root: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"some.txt.*{message}"):
        read_split(_split(voc_root, text))


def test_missing_files_are_named(voc_root: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.txt.*DETECTRON2_DATASETS"):
        load_voc_records(voc_root, "nowhere")
    (voc_root / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 image files.*\['000002'\]"):
        load_voc_records(voc_root, "all")


def test_malformed_xml_is_named(voc_root: Path) -> None:
    path = voc_root / "Annotations" / "000001.xml"
    path.write_text(path.read_text().replace("<xmin>1</xmin>", "<xmin>11</xmin>"))
    with pytest.raises(ValueError, match="000001.xml.*no area"):
        load_voc_records(voc_root, "all")
    path.write_text("<annotation>")
    with pytest.raises(ValueError, match="000001.xml.*malformed"):
        load_voc_records(voc_root, "all")


def test_size_comes_from_the_image_where_the_xml_has_none(voc_root: Path) -> None:
    path = voc_root / "Annotations" / "000003.xml"
    path.write_text("<annotation></annotation>")
    assert load_voc_records(voc_root, "all")[2]["height"] == 60


@pytest.mark.parametrize(("difficult", "labels"), [(False, [1]), (True, [0, 1])])
def test_difficult_objects_count_only_where_asked(
    voc_root: Path, difficult: bool, labels: list[int]
) -> None:
    register_voc_weak(
        "pets_weak",
        root=voc_root,
        split="all",
        year=2007,
        classes=("cat", "dog"),
        difficult_in_labels=difficult,
        evaluation_name="pets_eval",
    )
    records = weak_records("pets_weak")
    assert records[1]["image_labels"] == labels
    assert MetadataCatalog.get("pets_weak").difficult_in_labels is difficult
    assert MetadataCatalog.get("pets_weak").evaluation_name == "pets_eval"


def test_other_classes_are_ignored_and_weak_records_hold_no_annotation(voc_root: Path) -> None:
    arguments = {"root": voc_root, "split": "all", "year": 2012, "classes": ("dog",)}
    register_voc_weak("dogs_weak", **arguments)
    register_voc_evaluation("dogs_eval", **arguments)
    weak = weak_records("dogs_weak")
    assert [r["image_labels"] for r in weak] == [[], [0], [], [0]]
    keys = {"file_name", "image_id", "height", "width", "image_labels"}
    assert all(set(r) == keys for r in weak)
    assert [len(r["annotations"]) for r in DatasetCatalog.get("dogs_eval")] == [0, 1, 0, 1]
    assert MetadataCatalog.get("dogs_eval").thing_classes == ["dog"]


def test_moved_boxes_do_not_change_a_weak_set(voc_root: Path) -> None:
    register_voc_weak("poison_weak", root=voc_root, split="all", year=2007)
    before = weak_records("poison_weak")
    path = voc_root / "Annotations" / "000001.xml"
    path.write_text(path.read_text().replace("<xmax>10</xmax>", "<xmax>77</xmax>"))
    assert weak_records("poison_weak") == before


def test_registering_twice_is_no_change_and_a_taken_name_is_refused(voc_root: Path) -> None:
    for _ in range(2):
        register_voc_weak("twice_weak", root=voc_root, split="all", year=2007)
    with pytest.raises(ValueError, match="'twice_weak' is taken"):
        register_voc_weak("twice_weak", root=voc_root, split="all", year=2012)


@pytest.mark.assets
def test_real_annotations_are_read(real_data: Path) -> None:
    records = load_voc_records(real_data / "voc2012", "val_genuine")
    assert len(records) == 265
    assert sum(a["difficult"] for r in records for a in r["annotations"]) > 0
    for record in records[:5]:
        assert image_size(record["file_name"]) == (record["height"], record["width"])
        for x1, y1, x2, y2 in (a["bbox"] for a in record["annotations"]):
            assert 0 <= x1 < x2 <= record["width"] and 0 <= y1 < y2 <= record["height"]
