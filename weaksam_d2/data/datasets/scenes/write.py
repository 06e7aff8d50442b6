"""Scenes on disk: PNG images, a COCO-style JSON, a tags file."""

import csv
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from weaksam_d2.artifacts import atomic_folder, write_json
from weaksam_d2.data.datasets.scenes.compose import Scene, SceneObject, render_scene
from weaksam_d2.data.datasets.scenes.objects import SCENE_CLASSES

__all__ = ["SCENE_SETS", "SceneSet", "scenes", "write_scenes"]

logger = logging.getLogger(__name__)

FORMAT = "weaksam_d2.scenes/1"
_LOG_SECONDS = 5.0


@dataclass(frozen=True)
class SceneSet:
    """A named pair of rendered splits; splits have disjoint ranges of seeds."""

    name: str
    train: int
    val: int
    scale: tuple[float, float] = (0.15, 0.7)
    train_bias: float = 0.2  # the validation split has no bias
    seed: int = 0  # 0 … 999999

    @property
    def counts(self) -> dict[str, int]:
        """Images of each split."""
        return {"train": self.train, "val": self.val}

    def arguments(self, split: str) -> dict[str, Any]:
        """Return what :func:`write_scenes` takes for a split.

        Raises:
            ValueError: no such split, or a seed out of range.
        """
        if split not in self.counts:
            raise ValueError(f"scenes '{self.name}' have no split '{split}', only train and val")
        if not 0 <= self.seed < 1_000_000:
            raise ValueError(
                f"the seed of scenes '{self.name}' is {self.seed}; expected 0 … 999999"
            )
        validation = split == "val"
        return {
            "count": self.counts[split],
            "seed": self.seed + 1_000_000 * validation,
            "bias": 0.0 if validation else self.train_bias,
            "scale": self.scale,
        }


# The demo's objects are a little larger: 120 images must be enough to learn the heads.
SCENE_SETS = MappingProxyType(
    {
        "tiny": SceneSet("tiny", train=24, val=12, scale=(0.25, 0.7)),
        "demo": SceneSet("demo", train=120, val=60, scale=(0.2, 0.7)),
        "small": SceneSet("small", train=400, val=200),
        "full": SceneSet("full", train=4000, val=1000),
    }
)


def scenes(
    count: int, *, seed: int, bias: float = 0.0, scale: tuple[float, float] = (0.15, 0.7)
) -> Iterator[Scene]:
    """Render scenes 0 … count - 1 of a seed (arguments as in :func:`render_scene`)."""
    for index in range(count):
        yield render_scene(seed, index, bias=bias, scale=scale)


def write_scenes(
    folder: Path, *, count: int, seed: int, bias: float, scale: tuple[float, float]
) -> None:
    """Render a split into a folder that appears only when it is complete.

    Writes ``images/000001.png`` …, ``annotations.json`` (COCO with RLE masks of the visible pixels;
    the extras ``head_mask``, ``full_mask`` and ``head_share`` are for analysis), ``tags.csv`` and
    ``scenes.json`` (arguments and mean head shares). The same arguments give the same bytes.

    Raises:
        FileExistsError: the folder exists.
    """
    arguments = {"count": count, "seed": seed, "bias": bias, "scale": list(scale)}
    with atomic_folder(folder) as temporary:
        (temporary / "images").mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        rows: list[tuple[str, str]] = []
        last_log = time.monotonic()
        for number, scene in enumerate(scenes(count, seed=seed, bias=bias, scale=scale), start=1):
            name = f"{number:06d}.png"
            Image.fromarray(scene.image).save(temporary / "images" / name)
            height, width = scene.image.shape[:2]
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            for item in scene.objects:
                annotations.append(_annotation(item, len(annotations) + 1, number))
            rows.append((name, ";".join(_tags(scene))))
            if time.monotonic() - last_log > _LOG_SECONDS:
                logger.info("rendered %d of %d scenes of '%s'", number, count, folder.name)
                last_log = time.monotonic()
        categories = [{"id": c + 1, "name": name} for c, name in enumerate(SCENE_CLASSES)]
        write_json(
            temporary / "annotations.json",
            {
                "info": {"format": FORMAT, **arguments},
                "images": images,
                "annotations": annotations,
                "categories": categories,
            },
        )
        with (temporary / "tags.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("image", "tags"), *rows])
        summary = {"format": FORMAT, **arguments, "head_share": _head_shares(annotations)}
        write_json(temporary / "scenes.json", summary)


def render_once(folder: Path, scene_set: SceneSet, split: str) -> None:
    """Render a split where its folder is missing; another process may do the same meanwhile."""
    if folder.is_dir():
        return
    arguments = scene_set.arguments(split)
    logger.info("rendering %d scenes into '%s' (once)", arguments["count"], folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_scenes(folder, **arguments)
    except OSError:
        # The other one was faster: same bytes, so its folder is as good as ours.
        if not folder.is_dir():
            raise


def identity(scene_set: SceneSet, split: str) -> str:
    """Return what a split is made of, as text."""
    return f"{asdict(scene_set)}:{split}"


def _tags(scene: Scene) -> list[str]:
    return [SCENE_CLASSES[c] for c in sorted({item.category for item in scene.objects})]


def _annotation(item: SceneObject, number: int, image: int) -> dict[str, Any]:
    x1, y1, x2, y2 = item.box
    return {
        "id": number,
        "image_id": image,
        "category_id": item.category + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": int(item.visible.sum()),
        "iscrowd": 0,
        "segmentation": _rle(item.visible),
        "head_mask": _rle(item.head),
        "full_mask": _rle(item.full),
        "head_share": round(item.head_share, 6),
    }


def _rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(n) for n in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _head_shares(annotations: list[dict[str, Any]]) -> dict[str, float]:
    shares: dict[str, list[float]] = {name: [] for name in SCENE_CLASSES}
    for annotation in annotations:
        shares[SCENE_CLASSES[annotation["category_id"] - 1]].append(annotation["head_share"])
    return {name: round(float(np.mean(s)), 6) for name, s in shares.items() if s}
