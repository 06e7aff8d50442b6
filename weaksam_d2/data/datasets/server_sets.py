"""Test sets whose annotations only a server has: image lists, nothing known about any image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import read_json
from weaksam_d2.data.datasets.registration import register, require_files, require_split
from weaksam_d2.data.datasets.voc import VOC_CLASSES, image_files, read_split
from weaksam_d2.data.images import image_size

__all__ = ["register_coco_server_set", "register_voc_server_set"]


def register_voc_server_set(
    name: str,
    *,
    root: str | Path,
    split: str,
    year: int,
    classes: Sequence[str] | None = None,
    split_folder: str = "Main",
) -> None:
    """Register a VOC split without XML files (VOC 2012 test), to detect on.

    Args:
        root: folder with ``JPEGImages`` and ``ImageSets``.
        split: name of a file of ``ImageSets/<split_folder>``, without ``.txt``.
        year: of the data set.
        classes: what detections may be, in this order; None: VOC's 20.
        split_folder: "Main", or "Segmentation" for the images whose label maps a server scores.
    """
    names = list(classes or VOC_CLASSES)

    def load() -> list[dict[str, Any]]:
        ids = read_split(Path(root) / "ImageSets" / split_folder / f"{split}.txt")
        files = image_files(Path(root) / "JPEGImages")
        require_files(f"split '{split}' in '{root}'", [i for i in ids if i not in files])
        rows = [(image_id, files[image_id], *image_size(files[image_id])) for image_id in ids]
        return [_record(*row, len(names)) for row in rows]

    metadata = {**_metadata(names), "dirname": str(root), "split": split, "year": int(year)}
    identity = ("voc_server", root, split, year, names, split_folder)
    register(name, load, identity=identity, metadata=metadata)


def register_coco_server_set(
    name: str,
    *,
    json_file: str | Path,
    image_root: str | Path,
    categories: Sequence[dict[str, Any]],
) -> None:
    """Register the images of a COCO ``image_info_*.json`` (test-dev), to detect on.

    Args:
        json_file: its ``images`` are read, in their order.
        image_root: their folder.
        categories: ``id`` and ``name`` of each class; classes are numbered by rising id.
    """
    ordered = sorted(categories, key=lambda category: int(category["id"]))
    names = [category["name"] for category in ordered]
    ids = {int(category["id"]): number for number, category in enumerate(ordered)}

    def load() -> list[dict[str, Any]]:
        require_split(Path(json_file), "COCO file")
        images = read_json(Path(json_file))["images"]
        paths = [Path(image_root) / image["file_name"] for image in images]
        missing = [path.name for path in paths if not path.is_file()]
        require_files(f"'{json_file}' in '{image_root}'", missing)
        return [
            _record(str(image["id"]), str(path), image["height"], image["width"], len(names))
            for image, path in zip(images, paths, strict=True)
        ]

    metadata = {**_metadata(names), "thing_dataset_id_to_contiguous_id": ids}
    identity = ("coco_server", json_file, image_root, sorted(ids.items()))
    register(name, load, identity=identity, metadata=metadata)


def _metadata(names: list[str]) -> dict[str, Any]:
    return {
        "thing_classes": names,
        "evaluator_type": "none",
        "evaluation_name": "",
        "difficult_in_labels": False,
    }


def _record(
    image_id: str, file_name: str, height: int, width: int, num_classes: int
) -> dict[str, Any]:
    return {
        "file_name": file_name,
        "image_id": image_id,
        "height": height,
        "width": width,
        "image_labels": [],
        "unknown_labels": list(range(num_classes)),
    }
