"""The words of CLIP-ES: synonyms, surroundings, template."""

import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from weaksam_d2.cams.clip_prompts import background_words, class_names_for_clip, prompts
from weaksam_d2.data.datasets.voc import VOC_CLASSES

COCO = [category["name"] for category in COCO_CATEGORIES if category["isthing"]]
VOC_BACKGROUND = [
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river"),
    *("sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean"),
    *("road", "rock", "street", "valley", "bridge", "sign"),
]


def test_four_names_of_voc_have_synonyms() -> None:
    names = class_names_for_clip(VOC_CLASSES, "voc")
    changed = {old: new for old, new in zip(VOC_CLASSES, names, strict=True) if old != new}
    assert len(names) == 20
    assert changed == {
        "bird": "bird avian",
        "chair": "chair seat",
        "person": "person with clothes,people,human",
        "tvmonitor": "tvmonitor screen",
    }


def test_coco_takes_the_words_of_voc_and_adds_synonyms() -> None:
    names = class_names_for_clip(COCO, "coco")
    asked = dict(zip(COCO, names, strict=True))
    assert len(asked) == 80 and len(set(names)) == 80
    same_in_voc = ("motorbike", "aeroplane", "sofa", "pottedplant", "diningtable")
    assert set(same_in_voc) | {"tvmonitor screen", "bird avian", "chair seat"} <= set(names)
    assert asked["backpack"] == "backpack,bag" and asked["tie"] == "necktie"
    assert asked["hair drier"] == "hairdrier,blowdrier" and asked["remote"] == "remote control"
    assert asked["snowboard"] == "snowboard" and asked["zebra"] == "zebra"
    assert sum(old != new for old, new in asked.items()) == 17


def test_every_voc_class_is_asked_for_alike_in_coco() -> None:
    voc = set(class_names_for_clip(VOC_CLASSES, "voc"))
    assert voc <= set(class_names_for_clip(COCO, "coco"))


def test_the_misspelling_is_of_the_reference_only() -> None:
    names = class_names_for_clip(COCO, "coco")
    reference = class_names_for_clip(COCO, "coco_reference")
    different = [pair for pair in zip(names, reference, strict=True) if len(set(pair)) > 1]
    assert different == [("snowboard", "sknowboard")]


def test_own_classes_keep_their_names_and_some_classes_of_a_table_may_be_asked_for() -> None:
    assert class_names_for_clip(["red_kite", "owl"]) == ["red kite", "owl"]
    assert class_names_for_clip(["dog", "bird"], "voc") == ["dog", "bird avian"]


def test_a_class_outside_the_table_is_named() -> None:
    with pytest.raises(ValueError, match=r"\['owl'\] are not in the table 'voc'.*'dataset'"):
        class_names_for_clip(["dog", "owl"], "voc")
    with pytest.raises(ValueError, match="NAMES is 'lvis', allowed: dataset, voc, coco"):
        class_names_for_clip(["dog"], "lvis")


def test_the_surroundings_of_voc_and_coco_are_those_of_the_paper() -> None:
    assert background_words(VOC_CLASSES) == VOC_BACKGROUND
    assert len(VOC_BACKGROUND) == 25
    without = [word for word in VOC_BACKGROUND if word not in ("keyboard", "sign")]
    assert background_words(COCO) == without


def test_words_that_a_class_name_holds_do_not_compete() -> None:
    words = background_words(["Road", "stop sign", "seaplane"])
    assert set(VOC_BACKGROUND) - set(words) == {"road", "sign", "sea"}
    assert background_words([]) == VOC_BACKGROUND


def test_prompts_fill_the_template() -> None:
    assert prompts(["cat", "handbag,purse"]) == [
        "a clean origami cat.",
        "a clean origami handbag,purse.",
    ]
    assert prompts(["cat"], "{}!") == ["cat!"]
    with pytest.raises(ValueError, match=r"'a photo' has no place \{\}"):
        prompts(["cat"], "a photo")
