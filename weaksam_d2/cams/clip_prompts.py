"""What CLIP is asked about classes: their names in words it knows, and the words around them.

The tables are those that CLIP-ES found by trying synonyms (Lin et al., CVPR 2023, Sec. 3.3;
wsss.md, Sec. 3.5).
"""

from collections.abc import Sequence

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from weaksam_d2.data.datasets.voc import VOC_CLASSES

__all__ = ["TEMPLATE", "background_words", "class_names_for_clip", "prompts"]

TEMPLATE = "a clean origami {}."

# Words for frequent surroundings. They compete with the classes, so that evidence for "railroad"
# is not evidence for "train".
_SURROUNDINGS = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river"),
    *("sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean"),
    *("road", "rock", "street", "valley", "bridge", "sign"),
)

# By the name of the class in Pascal VOC; other classes keep their name.
_VOC_SYNONYMS = {
    "bird": "bird avian",
    "chair": "chair seat",
    "person": "person with clothes,people,human",
    "tvmonitor": "tvmonitor screen",
}

# By the name of the class in COCO. VOC's spellings come first.
_COCO_SYNONYMS = {
    "airplane": "aeroplane",
    "bird": "bird avian",
    "chair": "chair seat",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "person": "person with clothes,people,human",
    "potted plant": "pottedplant",
    "tv": "tvmonitor screen",
    "backpack": "backpack,bag",
    "baseball glove": "glove",
    "hair drier": "hairdrier,blowdrier",
    "handbag": "handbag,purse",
    "remote": "remote control",
    "spoon": "dessertspoon",
    "tie": "necktie",
    "umbrella": "umbrella,parasol",
}
# NOTE: the misspelling is that of the released code.
_COCO_REFERENCE_SYNONYMS = {**_COCO_SYNONYMS, "snowboard": "sknowboard"}

_COCO_CLASSES = tuple(c["name"] for c in COCO_CATEGORIES if c["isthing"])
_TABLES = {
    "voc": (VOC_CLASSES, _VOC_SYNONYMS),
    "coco": (_COCO_CLASSES, _COCO_SYNONYMS),
    "coco_reference": (_COCO_CLASSES, _COCO_REFERENCE_SYNONYMS),
}


def class_names_for_clip(class_names: Sequence[str], table: str = "dataset") -> list[str]:
    """Return what each class is called in its prompt.

    table: "voc" or "coco" for synonyms of these classes (or of some of them), "coco_reference"
    with the misspelling of the released code, "dataset" for the names themselves.

    Raises:
        ValueError: an unknown table, or a class that is not in it.
    """
    if table == "dataset":
        return [name.replace("_", " ") for name in class_names]
    if table not in _TABLES:
        raise ValueError(
            f"MODEL.CLASSIFIER.CLIPES.NAMES is {table!r}, allowed: "
            f"{', '.join(['dataset', *_TABLES])}"
        )
    known, synonyms = _TABLES[table]
    unknown = [name for name in class_names if name not in known]
    if unknown:
        raise ValueError(
            f"classes {unknown} are not in the table {table!r} of MODEL.CLASSIFIER.CLIPES.NAMES; "
            "set it to 'dataset' to ask for the classes by their own names"
        )
    return [synonyms.get(name, name) for name in class_names]


def background_words(class_names: Sequence[str]) -> list[str]:
    """Return the words for surroundings that are neither a class nor a part of its name.

    For the classes of VOC and COCO these are the 25 and 23 words of CLIP-ES.
    """
    lowered = [name.lower() for name in class_names]
    return [word for word in _SURROUNDINGS if not any(word in name for name in lowered)]


def prompts(names: Sequence[str], template: str = TEMPLATE) -> list[str]:
    """Return the prompt of each name.

    Raises:
        ValueError: a template without a place ``{}`` for the name.
    """
    if "{}" not in template:
        raise ValueError(f"prompt template {template!r} has no place {{}} for the class name")
    return [template.replace("{}", name) for name in names]
