"""Entering data sets into detectron2's catalogs: repeatable, and loud when a name is taken."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

__all__ = ["class_index", "refuse_weak", "register", "require_files", "require_split"]

Loader = Callable[[], list[dict[str, Any]]]


def register(
    name: str, loader: Loader, *, identity: Sequence[Any], metadata: dict[str, Any]
) -> None:
    """Register a loader and its metadata; doing so again with the same identity is no change.

    ``identity`` is what the data set is made of (kind, paths, classes, options).

    Raises:
        ValueError: the name belongs to another data set.
    """
    source = tuple(str(part) for part in identity)
    if name in DatasetCatalog.list():
        known = MetadataCatalog.get(name).get("registered_from")
        if known == source:
            return
        raise ValueError(
            f"data set name '{name}' is taken (by {known or 'another package'}), cannot register "
            f"{source}; choose another name"
        )
    DatasetCatalog.register(name, loader)
    MetadataCatalog.get(name).set(registered_from=source, **metadata)


def class_index(names: Sequence[str]) -> dict[str, int]:
    """Return contiguous class numbers by name; raises ValueError for repeated or no names."""
    if not names:
        raise ValueError("a data set needs at least one class")
    repeated = sorted({name for name in names if list(names).count(name) > 1})
    if repeated:
        raise ValueError(f"class names {repeated} occur twice in {list(names)}")
    return {name: number for number, name in enumerate(names)}


def require_split(path: Path, what: str) -> None:
    """Raise FileNotFoundError that says what the file is and where data sets are looked for."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{what} '{path}' does not exist; check the path, or set DETECTRON2_DATASETS to the "
            "folder that holds the data sets"
        )


def require_files(what: str, missing: Sequence[str]) -> None:
    """Raise FileNotFoundError naming how many files are missing and the first three."""
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} image files of {what} are missing, for example {list(missing[:3])}; "
            "correct the list or the image folder"
        )


def refuse_weak(name: str) -> None:
    """Raise ValueError for a set without boxes, KeyError for an unknown one; says what to do."""
    if name not in DatasetCatalog.list():
        raise KeyError(f"data set '{name}' is not registered")
    first = DatasetCatalog.get(name)[:1]
    if first and "image_labels" in first[0] and "annotations" not in first[0]:
        twin = MetadataCatalog.get(name).get("evaluation_name", "")
        remedy = (
            f"its annotated twin is '{twin}' (metadata.evaluation_name)"
            if twin
            else ("it has no annotated twin (metadata.evaluation_name is empty)")
        )
        raise ValueError(
            f"data set '{name}' has image labels and no boxes, detectron2's mapper needs boxes: "
            f"{remedy}; or give its pseudo ground truth in DATASETS.PSEUDO_GT_TRAIN, or choose a "
            "weak INPUT.MAPPER_NAME, or SemSegMapper for label images"
        )
