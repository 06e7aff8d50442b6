"""Image-level labels: the one place where annotations become tags, and where they end."""

from collections.abc import Sequence
from typing import Any

__all__ = ["image_labels", "to_weak_record", "validate_weak_records"]

# Keys that carry over into a weak record. A list of what stays (not of what goes), so that a new
# kind of annotation cannot slip through.
_WEAK_KEYS = ("file_name", "image_id", "height", "width")
_LABEL_KEYS = ("image_labels", "negative_labels", "unknown_labels")
_FORBIDDEN_KEYS = ("annotations", "sem_seg_file_name", "pan_seg_file_name", "segments_info")


def image_labels(
    annotations: Sequence[dict[str, Any]], *, difficult_in_labels: bool = False
) -> list[int]:
    """Return the sorted contiguous classes of an image that its annotations show.

    Crowd regions never count; difficult objects only if ``difficult_in_labels`` (WeakSAM,
    Sec. 4.1: detection leaves them out, segmentation counts them).
    """
    return sorted(
        {
            int(annotation["category_id"])
            for annotation in annotations
            if not annotation.get("iscrowd", 0)
            and (difficult_in_labels or not annotation.get("difficult", 0))
        }
    )


def to_weak_record(record: dict[str, Any], *, difficult_in_labels: bool = False) -> dict[str, Any]:
    """Return a new record with ``image_labels`` and no trace of the annotations."""
    weak = {key: record[key] for key in _WEAK_KEYS}
    weak["image_id"] = str(record["image_id"])
    weak["image_labels"] = image_labels(
        record["annotations"], difficult_in_labels=difficult_in_labels
    )
    return weak


def validate_weak_records(
    name: str, records: Sequence[dict[str, Any]], num_classes: int
) -> list[dict[str, Any]]:
    """Check the records of a weak data set and return them with ``str`` image ids.

    Raises:
        ValueError: no record, an annotation, a missing field, a repeated id, or a class that is
            out of range or both present and absent; the message names data set and image.
    """
    if not records:
        raise ValueError(f"data set '{name}' has no images")
    seen: set[str] = set()
    checked = []
    for record in records:
        missing = [key for key in (*_WEAK_KEYS, "image_labels") if key not in record]
        where = f"image '{record.get('image_id', record.get('file_name', '?'))}' of '{name}'"
        if "image_labels" in missing and "annotations" in record:
            raise ValueError(
                f"{where} has annotations and no image_labels: this is not a weak data set. "
                "Name its weak twin (usually '…_weak') instead."
            )
        if missing:
            raise ValueError(f"{where} lacks {missing}; expected {list(_WEAK_KEYS)} and labels")
        for key in _FORBIDDEN_KEYS:
            if key in record:
                raise ValueError(f"{where} holds '{key}', which a weak data set must not have")
        image_id = str(record["image_id"])
        if image_id in seen:
            raise ValueError(f"{where}: the image id occurs twice; ids must be unique")
        seen.add(image_id)
        _check_label_sets(where, record, num_classes)
        checked.append({**record, "image_id": image_id})
    return checked


def _check_label_sets(where: str, record: dict[str, Any], num_classes: int) -> None:
    owner: dict[int, str] = {}
    for key in _LABEL_KEYS:
        for label in record.get(key, ()):
            if not 0 <= int(label) < num_classes:
                raise ValueError(f"{where}: {key} holds {label}; expected 0 … {num_classes - 1}")
            if int(label) in owner:
                raise ValueError(f"{where}: class {label} is in {owner[int(label)]} and in {key}")
            owner[int(label)] = key
