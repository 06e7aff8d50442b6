"""Lists of (image, class) pairs as data sets."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from weaksam_d2.projects.boxsam import register_class_pairs
from weaksam_d2.projects.boxsam.pairs import read_class_pairs

from weaksam_d2.data import weak_records

CLASSES = ["person", "tvmonitor", "cat"]


@pytest.fixture()
def root(tmp_path: Path) -> Iterator[Path]:
    for name in ("Man/a.jpg", "Woman/b.png", "Television/c.jpg", "Cat/d.jpg", "Cat/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)
    known = set(DatasetCatalog.list())
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_folder_for_each_class_is_a_weak_set(root: Path) -> None:
    register_class_pairs("pairs", root=root, classes=CLASSES)
    records = weak_records("pairs")
    assert {r["image_id"]: r["image_labels"] for r in records} == {
        "Cat/d.jpg": [2],
        "Man/a.jpg": [0],
        "Television/c.jpg": [1],
        "Woman/b.png": [0],
    }
    assert (records[0]["height"], records[0]["width"]) == (8, 12)
    register_class_pairs("pairs", root=root, classes=CLASSES)  # doing it twice changes nothing


def test_csv_and_json_lists_say_the_same(root: Path) -> None:
    pairs = [["Cat/d.jpg", "cat"], ["Man/a.jpg", "boy"], ["Man/a.jpg", "TV"]]
    (root / "p.csv").write_text("image,class\n" + "\n".join(",".join(p) for p in pairs) + "\n")
    (root / "p.json").write_text(json.dumps(pairs))
    expected = [tuple(pair) for pair in pairs]
    assert read_class_pairs(root, root / "p.csv") == expected
    assert read_class_pairs(root, root / "p.json") == expected
    register_class_pairs("listed", root=root, pairs=root / "p.csv", classes=CLASSES)
    found = {r["image_id"]: r["image_labels"] for r in weak_records("listed")}
    assert found == {"Cat/d.jpg": [2], "Man/a.jpg": [0, 1]}  # an image of two pairs


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a.jpg,cat,dog\n", "entry 1"), ("a.jpg,\n", "entry 1"), ("", "no .image, class. pair")],
)
def test_a_malformed_list_names_its_entry(root: Path, text: str, problem: str) -> None:
    (root / "p.csv").write_text(text)
    with pytest.raises(ValueError, match=problem):
        read_class_pairs(root, root / "p.csv")
    (root / "p.json").write_text("{")
    with pytest.raises(ValueError, match="malformed"):
        read_class_pairs(root, root / "p.json")


def test_a_name_that_is_no_class_is_an_error(root: Path) -> None:
    (root / "Tree").mkdir()
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "Tree" / "e.jpg")
    register_class_pairs("trees", root=root, classes=CLASSES)
    with pytest.raises(ValueError, match=r"\['Tree'\]"):
        DatasetCatalog.get("trees")


def test_the_known_set_is_opened_only_when_it_is_loaded() -> None:
    assert "open_images_voc_pairs" in DatasetCatalog.list()
    assert len(MetadataCatalog.get("open_images_voc_pairs").thing_classes) == 20
