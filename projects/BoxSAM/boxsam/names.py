"""What classes are called: in prompts, and in the lists that a tagger is trained on."""

from collections.abc import Mapping, Sequence

__all__ = ["class_words", "match_names"]

# VOC writes its names as one word; the text encoders know them apart.
_WORDS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}

# By the name of the class in VOC and in COCO: what other lists (Open Images) call it.
_OTHER_NAMES = {
    "aeroplane": ("airplane",),
    "airplane": ("aeroplane",),
    "bicycle": ("bike",),
    "couch": ("sofa",),
    "cow": ("cattle",),
    "dining table": ("diningtable", "kitchen & dining room table"),
    "diningtable": ("dining table", "kitchen & dining room table"),
    "motorbike": ("motorcycle", "motor bikes"),
    "motorcycle": ("motorbike", "motor bikes"),
    "person": ("man", "woman", "boy", "girl"),
    "potted plant": ("pottedplant", "houseplant"),
    "pottedplant": ("potted plant", "houseplant"),
    "sofa": ("couch",),
    "tv": ("television", "tvmonitor", "tv monitor"),
    "tvmonitor": ("tv", "television", "tv monitor"),
}


def class_words(class_names: Sequence[str]) -> list[str]:
    """What each class is called in a prompt: in lower case, VOC's names in separate words."""
    lowered = [name.lower().replace("_", " ") for name in class_names]
    return [_WORDS.get(name, name) for name in lowered]


def match_names(names: Sequence[str], class_names: Sequence[str]) -> Mapping[str, int]:
    """Contiguous class of each name of another list (Open Images), whatever its case.

    A name is a class's own, or one of the table of this module; nothing is guessed.

    Raises:
        ValueError: names that no class is known by.

    Source: BoxSAM, Sec. 4 ("renamed where needed"); wsss.md, Sec. 7.2.
    """
    known = {name.lower().replace("_", " "): number for number, name in enumerate(class_names)}
    for own, number in list(known.items()):
        for alias in _OTHER_NAMES.get(own, ()):
            known.setdefault(alias, number)  # a class's own name comes before any alias
    keys = {name: name.strip().lower().replace("_", " ") for name in names}
    unmatched = sorted(name for name, key in keys.items() if key not in known)
    if unmatched:
        raise ValueError(
            f"names {unmatched} are no class among {list(class_names)} and have no entry in the "
            "table of boxsam/names.py; leave these images out, or rename them"
        )
    return {name: known[key] for name, key in keys.items()}
