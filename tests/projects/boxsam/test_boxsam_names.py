"""Names of classes in prompts and in other lists."""

import pytest
from weaksam_d2.projects.boxsam import class_words, match_names

from weaksam_d2.data.datasets.voc import VOC_CLASSES


def test_names_of_voc_are_taken_apart() -> None:
    words = dict(zip(VOC_CLASSES, class_words(VOC_CLASSES), strict=True))
    changed = {name: word for name, word in words.items() if name != word}
    assert changed == {
        "aeroplane": "airplane",
        "diningtable": "dining table",
        "pottedplant": "potted plant",
        "tvmonitor": "tv monitor",
    }
    assert class_words(["Red_Ball"]) == ["red ball"]


def test_names_of_open_images_are_found_by_the_table() -> None:
    listed = {
        "Airplane": "aeroplane",
        "Couch": "sofa",
        "Houseplant": "pottedplant",
        "Kitchen & dining room table": "diningtable",
        "Television": "tvmonitor",
        "Motorcycle": "motorbike",
        "motor bikes": "motorbike",
        "Bike": "bicycle",
        "Woman": "person",
        "Boy": "person",
        "Cat": "cat",
    }
    found = match_names(list(listed), VOC_CLASSES)
    assert {name: VOC_CLASSES[number] for name, number in found.items()} == listed


def test_the_names_of_coco_are_found_as_well() -> None:
    coco = ["person", "motorcycle", "couch", "dining table", "tv"]
    names = ["Man", "motor bikes", "Sofa", "Kitchen & dining room table", "Television"]
    assert list(match_names(names, coco).values()) == [0, 1, 2, 3, 4]


def test_a_class_of_its_own_name_comes_before_an_alias() -> None:
    assert match_names(["man"], ["person", "man"]) == {"man": 1}


def test_a_name_without_a_class_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\['Zebra', 'tree'\]"):
        match_names(["cat", "tree", "Zebra"], VOC_CLASSES)
