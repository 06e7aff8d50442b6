"""Small data sets in temporary folders, and catalogs that forget them after each test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.config import add_weaksam_config

XML = """<annotation><filename>{name}.jpg</filename>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>
"""
OBJECT = """<object><name>{name}</name>{difficult}
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""


@pytest.fixture(autouse=True)
def clean_catalogs() -> Iterator[None]:
    known = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture()
def save_image() -> Callable[..., Path]:
    def save(path: Path, height: int = 60, width: int = 80, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture()
def voc_root(tmp_path: Path, save_image: Callable[..., Path]) -> Path:
    """Four images: cat; cat (difficult) and dog; nothing; dog (no difficult tag, fractions)."""
    root = tmp_path / "voc"
    contents: dict[str, list[tuple[str, int | None, tuple[float, ...]]]] = {
        "000001": [("cat", 0, (1, 1, 10, 20))],
        "000002": [("cat", 1, (5, 6, 30, 40)), ("dog", 0, (2, 2, 50, 50))],
        "000003": [],
        "000004": [("dog", None, (1.5, 2.0, 79.5, 60.0)), ("sofa", 0, (3, 3, 9, 9))],
    }
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for seed, (name, objects) in enumerate(contents.items()):
        save_image(root / "JPEGImages" / f"{name}.jpg", seed=seed)
        text = "".join(
            OBJECT.format(
                *box,
                name=label,
                difficult="" if hard is None else f"<difficult>{hard}</difficult>",
            )
            for label, hard, box in objects
        )
        xml = XML.format(name=name, width=80, height=60, objects=text)
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    write_split(root, "all", "\n".join(contents) + "\n")
    return root


def write_split(root: Path, split: str, text: str) -> None:
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text)


@pytest.fixture()
def weak_cfg() -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.INPUT.MAPPER_NAME = "WeakDatasetMapper"
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    cfg.INPUT.MIN_SIZE_TEST = 48
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.WSOD.MIN_SIDE = 4
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.SEED = 3
    for mode in ("TRAIN", "TEST"):
        cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{mode}"] = 100000
    return cfg


@pytest.fixture()
def proposal_store(tmp_path: Path) -> Callable[..., str]:
    def write(boxes: dict[str, Any], name: str = "proposals") -> str:
        path = tmp_path / name
        with ProposalStoreWriter(path, overwrite=True) as writer:
            for image_id, rows in boxes.items():
                array = np.asarray(rows, dtype=np.float32).reshape(-1, 4)
                writer.add(image_id, array, image_size=(60, 80))
        return str(path)

    return write
