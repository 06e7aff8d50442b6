"""Pseudo ground truth in the layouts that other programs and label tools open."""

import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from weaksam_d2.artifacts import PseudoGroundTruth, write_json

__all__ = ["EXPORT_LAYOUTS", "export_pseudo_gt", "voc_box", "yolo_box"]

_YOLO_NOTE = (
    "# Pseudo boxes of a weakly supervised detector. train.txt lists the images that have boxes.\n"
    "# There are no true boxes here: let val name a set of your own.\n"
)


@dataclass(frozen=True)
class _Job:
    """What is exported and where to."""

    pgt: PseudoGroundTruth
    folder: Path
    split: str
    boxes: dict[Any, list[Mapping[str, Any]]]  # annotations by image id

    def names(self) -> dict[int, str]:
        return {category["id"]: category["name"] for category in self.pgt.categories}


def export_pseudo_gt(
    pgt: PseudoGroundTruth,
    folder: Path,
    layout: str,
    *,
    split: str = "train",
    images: Path | None = None,
    copy_images: bool = False,
) -> dict[str, int]:
    """Write pseudo ground truth into an existing empty folder, in the layout of another program.

    Args:
        layout: ``coco`` (``annotations/instances_<split>.json``; images numbered from 1, with
            their id as ``original_id``), ``voc`` (``Annotations/*.xml``, ``ImageSets/Main``,
            ``labelmap.txt``) or ``yolo`` (``labels/<split>/*.txt``, ``data.yaml``,
            ``classes.txt``).
        images: the folder that the file names are relative to. A link to it is made where the
            layout has its images, nothing is copied. None: no link.
        copy_images: copy the listed images instead of the link.

    Returns:
        Counts: ``images``, ``boxes``, ``images_without_box``.

    Raises:
        ValueError: an unknown layout, file names that leave the folder or that the layout cannot
            tell apart. FileNotFoundError: an image is missing in ``images``.
    """
    if layout not in EXPORT_LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {', '.join(EXPORT_LAYOUTS)}")
    if copy_images and images is None:
        raise ValueError("images to copy: say in which folder they are")
    boxes: dict[Any, list[Mapping[str, Any]]] = {row["id"]: [] for row in pgt.images}
    for annotation in pgt.annotations:
        boxes[annotation["image_id"]].append(annotation)
    _check_names([row["file_name"] for row in pgt.images], by_stem=layout != "coco")
    write, place = EXPORT_LAYOUTS[layout]
    write(_Job(pgt, folder, split, boxes))
    if images is not None:
        target = folder / place.format(split=split)
        _place_images(images, target, [row["file_name"] for row in pgt.images], copy_images)
    return {
        "images": len(pgt.images),
        "boxes": len(pgt.annotations),
        "images_without_box": sum(not rows for rows in boxes.values()),
    }


def voc_box(bbox: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """The pixels that a box XYWH covers, rounded: xmin, ymin, xmax, ymax from 1, inclusive.

    They are inside the image and at least one pixel; VOC readers take one from xmin and ymin.
    """
    x, y, w, h = bbox
    first = [min(floor(low + 0.5) + 1, size) for low, size in ((x, width), (y, height))]
    last = [min(floor(high + 0.5), size) for high, size in ((x + w, width), (y + h, height))]
    return first[0], first[1], max(last[0], first[0]), max(last[1], first[1])


def yolo_box(bbox: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    """Center, width and height of a box XYWH as shares of the image's width and height."""
    x, y, w, h = bbox
    return (x + w / 2) / width, (y + h / 2) / height, w / width, h / height


def _stem(image: Mapping[str, Any]) -> str:
    return PurePosixPath(image["file_name"]).with_suffix("").as_posix()


def _check_names(names: Sequence[str], *, by_stem: bool) -> None:
    paths = [PurePosixPath(name) for name in names]
    outside = [str(p) for p in paths if p.is_absolute() or ".." in p.parts]
    if outside:
        raise ValueError(f"file names must be relative and stay in their folder: {outside[:3]}")
    if by_stem and len({path.with_suffix("") for path in paths}) < len(paths):
        raise ValueError(
            "two images differ in their suffix only, and this layout names files without it; "
            "export to coco"
        )


def _place_images(source: Path, target: Path, names: Sequence[str], copy: bool) -> None:
    missing = [name for name in names if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images are not in {source}, such as {missing[:3]}; name the folder "
            "that the file names of the pseudo ground truth are relative to"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        os.symlink(source.resolve(), target, target_is_directory=True)
        return
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def _write_coco(job: _Job) -> None:
    number = {image["id"]: place for place, image in enumerate(job.pgt.images, start=1)}
    content = {
        "info": job.pgt.info,
        "licenses": [],
        "images": [
            {**image, "id": number[image["id"]], "original_id": image["id"]}
            for image in job.pgt.images
        ],
        "categories": [{**category, "supercategory": ""} for category in job.pgt.categories],
        "annotations": [
            {**row, "image_id": number[row["image_id"]]} for row in job.pgt.annotations
        ],
    }
    write_json(job.folder / "annotations" / f"instances_{job.split}.json", content, indent=None)


def _write_voc(job: _Job) -> None:
    names = job.names()
    for image in job.pgt.images:
        root = _voc_image(image)
        for row in job.boxes[image["id"]]:
            child = ElementTree.SubElement(root, "object")
            fields = {"name": names[row["category_id"]], "pose": "Unspecified"}
            _add(child, {**fields, "truncated": 0, "difficult": 0})
            if "score" in row:
                _add(child, {"score": row["score"]})
            corners = voc_box(row["bbox"], image["width"], image["height"])
            keys = ("xmin", "ymin", "xmax", "ymax")
            _add(ElementTree.SubElement(child, "bndbox"), dict(zip(keys, corners, strict=True)))
        ElementTree.indent(root, "  ")
        path = job.folder / "Annotations" / f"{_stem(image)}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(path, encoding="utf-8")
    _write_lines(job.folder / "ImageSets" / "Main" / f"{job.split}.txt", map(_stem, job.pgt.images))
    heading = "# label:color_rgb:parts:actions"
    _write_lines(job.folder / "labelmap.txt", [heading, *(f"{n}:::" for n in names.values())])


def _voc_image(image: Mapping[str, Any]) -> ElementTree.Element:
    path = PurePosixPath(image["file_name"])
    root = ElementTree.Element("annotation")
    _add(root, {"folder": "JPEGImages", "filename": path.as_posix(), "segmented": 0})
    _add(ElementTree.SubElement(root, "source"), {"database": "pseudo ground truth"})
    size = {"width": image["width"], "height": image["height"], "depth": 3}
    _add(ElementTree.SubElement(root, "size"), size)
    return root


def _add(parent: ElementTree.Element, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        ElementTree.SubElement(parent, key).text = str(value)


def _write_yolo(job: _Job) -> None:
    names = job.names()
    index = {category_id: place for place, category_id in enumerate(names)}
    labels = job.folder / "labels" / job.split
    for image in job.pgt.images:
        lines = []
        for row in job.boxes[image["id"]]:
            shares = yolo_box(row["bbox"], image["width"], image["height"])
            lines.append(" ".join([str(index[row["category_id"]]), *(f"{s:.9f}" for s in shares)]))
        _write_lines(labels / f"{_stem(image)}.txt", lines)
    # Without its own classes.txt LabelImg does not open a label file.
    for folder in (job.folder, labels):
        _write_lines(folder / "classes.txt", names.values())
    # NOTE: a tagged image without a box is no background, so it is not listed for training.
    with_box = [image["file_name"] for image in job.pgt.images if job.boxes[image["id"]]]
    listed = f"{job.split}.txt"
    _write_lines(job.folder / listed, [f"./images/{job.split}/{name}" for name in with_box])
    data = {"train": listed, "val": listed, "names": dict(enumerate(names.values()))}
    text = _YOLO_NOTE + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    (job.folder / "data.yaml").write_text(text, encoding="utf-8")


def _write_lines(path: Path, lines: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


# How a layout is written, and where it has its images.
EXPORT_LAYOUTS: dict[str, tuple[Callable[[_Job], None], str]] = {
    "coco": (_write_coco, "images"),
    "voc": (_write_voc, "JPEGImages"),
    "yolo": (_write_yolo, "images/{split}"),
}
