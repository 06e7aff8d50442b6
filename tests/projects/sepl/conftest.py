"""A small data set with tags, true labels, seeds and masks, and SEPL's config."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    LabelSpace,
    ProposalStoreWriter,
    SemSegLabelsWriter,
    write_json,
    write_label_png,
)
from weaksam_d2.data import register_label_folder, register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.ops import encode_rle
from weaksam_d2.projects import add_all_configs

SIZE, COUNT = (24, 32), 10
IDS = [f"img{number}" for number in range(COUNT)]
CLASSES = ("cat", "dog")


def scene(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """True label, seed, masks and tags of an image: a block for each class, seeds in its middle."""
    rng = np.random.default_rng(number)
    tags = ((0,), (1,), (0, 1))[number % 3]
    truth, seed = np.zeros((2, *SIZE), np.uint8)
    masks = [np.zeros(SIZE, bool) for _ in range(5)]
    for row, tag in enumerate(tags):
        top, left = int(rng.integers(1, 6)), 1 + 16 * row
        truth[top : top + 14, left : left + 13] = tag + 1
        seed[top + 3 : top + 12, left + 2 : left + 12] = tag + 1
        masks[row] = truth == tag + 1
        masks[row + 2][top : top + 14, left : left + 6] = True
    masks[4] = rng.random(SIZE) < 0.3
    seed[0, :4] = 255
    return truth, seed, np.stack(masks), tags


@pytest.fixture()
def world(tmp_path: Path) -> Iterator[Any]:
    """The set "sepl_tiny" and the folders ``images``, ``truth``, ``seeds`` and ``masks``."""
    known = set(DatasetCatalog.list())
    for name in ("images", "truth"):
        (tmp_path / name).mkdir()
    lines = []
    space = LabelSpace("sepl_tiny", CLASSES)
    origin = {"system": "CAM", "base": "paper", "supervision": "image_labels"}
    boxes = np.tile(np.array([[0, 0, 3, 3]], np.float32), (5, 1))
    with (
        SemSegLabelsWriter(tmp_path / "seeds", space=space, **origin) as seeds,
        ProposalStoreWriter(tmp_path / "masks", source_names=["Grid"]) as store,
    ):
        for number, image_id in enumerate(IDS):
            truth, seed, masks, tags = scene(number)
            pixels = np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{image_id}.png")
            write_label_png(tmp_path / "truth" / f"{image_id}.png", truth)
            seeds.add(image_id, seed, tags=tags)
            codes, scores = encode_rle(masks), np.linspace(0.9, 0.5, 5)
            store.add(image_id, boxes, scores=scores, masks=codes, image_size=SIZE)
            lines.append(f"{image_id}.png,{';'.join(CLASSES[tag] for tag in tags)}\n")
    write_json(tmp_path / "seeds" / "config.json", {"WEAKSAM.LABELS.CRF": ""})
    (tmp_path / "tags.csv").write_text("".join(lines))
    register_tagged_folder(
        "sepl_tiny",
        image_root=tmp_path / "images",
        tags=tmp_path / "tags.csv",
        classes=list(CLASSES),
    )
    register_label_folder("sepl_tiny_labels", weak_name="sepl_tiny", folder=tmp_path / "truth")
    inputs = {"input": tmp_path / "seeds", "masks": tmp_path / "masks"}
    yield SimpleNamespace(root=tmp_path, space=space, inputs=inputs)
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture()
def make_cfg() -> Callable[..., Any]:
    """A config whose label source is SEPL, on labels of maps; takes keys and values."""

    def make(*keys: Any) -> Any:
        cfg = cli.base_config(add_all_configs)
        cfg.WEAKSAM.LABELS.SOURCE, cfg.SEPL.START = "SEPL", "cam"
        cfg.merge_from_list(list(keys))
        return cfg

    return make
