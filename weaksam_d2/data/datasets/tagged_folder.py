"""A folder of images and a tags file: the data set of someone who has tags only."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.data.datasets.registration import class_index, register, require_files
from weaksam_d2.data.datasets.tag_files import TaggedImage, nearest_class_hint, read_tags
from weaksam_d2.data.images import image_size

__all__ = ["load_tagged_folder", "register_tagged_folder"]


def register_tagged_folder(
    name: str,
    *,
    image_root: str | Path,
    tags: str | Path,
    classes: Sequence[str] | None = None,
    evaluation_name: str = "",
) -> None:
    """Register a folder of images and a CSV or JSON file of their tags (:func:`read_tags`).

    Args:
        classes: the classes, in this order; None: the tags that occur (present, absent or
            unknown), sorted.
        evaluation_name: an annotated twin, if there is one; without one nothing is evaluated.

    Raises:
        FileNotFoundError: no such tags file. ValueError: a tag is no class; the message names
        file, line, tag and the nearest class.
    """
    rows = read_tags(tags)
    names = tuple(classes or sorted({tag for row in rows for tag in _mentioned(row)}))
    if not names:
        raise ValueError(f"tags file '{tags}' holds no tag, so there is no class to learn")
    index = class_index(names)
    _check_tags(rows, names)
    register(
        name,
        lambda: load_tagged_folder(image_root, rows, index),
        identity=("tagged_folder", image_root, tags, names, evaluation_name, hash(tuple(rows))),
        metadata={
            "thing_classes": list(names),
            "evaluator_type": "none",
            "evaluation_name": evaluation_name,
            "difficult_in_labels": False,
            "image_root": str(image_root),
        },
    )


def _mentioned(row: TaggedImage) -> tuple[str, ...]:
    return (*row.tags, *row.negative, *row.unknown)


def _check_tags(rows: Sequence[TaggedImage], names: Sequence[str]) -> None:
    for row in rows:
        for tag in _mentioned(row):
            if tag not in names:
                raise ValueError(
                    f"{row.where}: tag '{tag}' is not a class{nearest_class_hint(tag, names)}; "
                    f"the classes are {list(names)}"
                )


def load_tagged_folder(
    image_root: str | Path, rows: Sequence[TaggedImage], index: dict[str, int]
) -> list[dict[str, Any]]:
    """Build the weak records of a tagged folder; sizes come from the files, after EXIF rotation.

    The image id is the file's name without suffix, or the whole relative name where two images
    share that.

    Raises:
        FileNotFoundError: images are missing (first three are named).
        DamagedImageError: an image cannot be opened.
    """
    root = Path(image_root)
    require_files(
        f"image folder '{root}'",
        [row.file_name for row in rows if not (root / row.file_name).is_file()],
    )
    stems = Counter(Path(row.file_name).stem for row in rows)
    records = []
    for row in rows:
        stem = Path(row.file_name).stem
        height, width = image_size(root / row.file_name)
        records.append(
            {
                "file_name": str(root / row.file_name),
                "image_id": stem if stems[stem] == 1 else row.file_name,
                "height": height,
                "width": width,
                "image_labels": sorted(index[tag] for tag in row.tags),
                **_further_labels(row, index),
            }
        )
    return records


def _further_labels(row: TaggedImage, index: dict[str, int]) -> dict[str, list[int]]:
    """``negative_labels`` and ``unknown_labels``, where a file says so."""
    sets = {"negative_labels": row.negative, "unknown_labels": row.unknown}
    return {key: sorted(index[tag] for tag in tags) for key, tags in sets.items() if tags}
