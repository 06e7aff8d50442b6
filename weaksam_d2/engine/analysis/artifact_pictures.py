"""Artifacts of any stage drawn on the images they are about, side by side."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import (
    CamStore,
    CategoryMap,
    PromptSet,
    ProposalStore,
    read_detections,
    read_json,
    read_pseudo_gt,
)
from weaksam_d2.visualization import (
    draw_cams,
    draw_detections,
    draw_prompts,
    draw_proposals,
    draw_pseudo_gt,
)

__all__ = ["DrawingOptions", "by_image", "open_drawing", "side_by_side"]

_TITLE, _GUTTER = 30, 8  # pixels: the strip of a title, the space between pictures

#: Image, id of the image -> picture (RGB uint8).
Drawing = Callable[[np.ndarray, str], np.ndarray]


@dataclass(frozen=True)
class DrawingOptions:
    """What of an artifact is drawn: see ``tools/visualize_artifacts.py`` for each field."""

    limit: int = 0
    score_thresh: float = 0.0
    color_by: str = "class"
    cam_kind: str = "coarse"


def open_drawing(path: Path, dataset: str, options: DrawingOptions) -> Drawing:
    """A function that draws this artifact's entry of an image.

    ``path`` is the folder of maps, prompts or proposals, or a file ``detections.json`` or
    ``pseudo_gt.json``; a folder that holds one of these files stands for it. ``dataset`` (the
    name of a registered data set) gives the class names of detections.

    Raises:
        FileNotFoundError: there is no such artifact.
        ValueError: the file or folder is of another kind.
    """
    for name in ("pseudo_gt.json", "detections.json"):
        if (path / name).exists():
            path = path / name
    if path.suffix == ".json":
        return _annotations(path, dataset, options)
    index = path / "index.json"
    if not index.exists():
        raise FileNotFoundError(
            f"{path} is no artifact: expected a folder with index.json (of generate_cams, "
            "generate_prompts or generate_proposals), detections.json or pseudo_gt.json"
        )
    kind = str(read_json(index).get("format", ""))
    if kind not in _STORES:
        raise ValueError(f"{index}: format {kind!r}, expected one of {sorted(_STORES)}")
    return _STORES[kind](path, options)


def _cams(path: Path, options: DrawingOptions) -> Drawing:
    store = CamStore.open(path)

    def draw(image: np.ndarray, image_id: str) -> np.ndarray:
        maps = store[image_id]
        return draw_cams(image, maps, class_names=store.class_names, kind=options.cam_kind)

    return draw


def _prompts(path: Path, options: DrawingOptions) -> Drawing:
    prompts = PromptSet.open(path)

    def draw(image: np.ndarray, image_id: str) -> np.ndarray:
        names = prompts.class_names
        return draw_prompts(image, prompts[image_id], class_names=names, by=options.color_by)

    return draw


def _proposals(path: Path, options: DrawingOptions) -> Drawing:
    store = ProposalStore.open(path)
    return lambda image, image_id: draw_proposals(image, store[image_id], limit=options.limit)


_STORES: Mapping[str, Callable[[Path, DrawingOptions], Drawing]] = {
    "weaksam_d2.cams/1": _cams,
    "weaksam_d2.prompts/1": _prompts,
    "weaksam_d2.proposals/1": _proposals,
}


def _annotations(path: Path, dataset: str, options: DrawingOptions) -> Drawing:
    """Of a COCO file: a list is detections, an object pseudo ground truth."""
    if isinstance(json.loads(path.read_text()), list):
        detections = by_image(read_detections(path))
        categories = CategoryMap.from_metadata(MetadataCatalog.get(dataset)).categories()

        def draw(image: np.ndarray, image_id: str) -> np.ndarray:
            return draw_detections(
                image,
                detections.get(image_id, ()),
                categories=categories,
                score_thresh=options.score_thresh,
                limit=options.limit,
            )

        return draw
    labels = read_pseudo_gt(path)
    rows = by_image(labels.annotations)
    return lambda image, image_id: draw_pseudo_gt(
        image, rows.get(image_id, ()), categories=labels.categories
    )


def by_image(entries: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Entries of a COCO list by their image id, in order."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        rows.setdefault(str(entry["image_id"]), []).append(entry)
    return rows


def side_by_side(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Titled pictures in a row, RGB uint8; lower ones are filled up with white below."""
    height = max(len(picture) for picture in pictures.values())
    panels: list[np.ndarray] = []
    for title, picture in pictures.items():
        panel = np.full((height + _TITLE, picture.shape[1] + _GUTTER, 3), 255, np.uint8)
        panel[_TITLE : _TITLE + len(picture), : picture.shape[1]] = picture
        position, font = (4, _TITLE - 10), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(panel, title, position, font, 0.7, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(panel)
    return np.concatenate(panels, axis=1)[:, :-_GUTTER]
