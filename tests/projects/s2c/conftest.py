"""A tiny S2C on random pixels, with discs in place of SAM."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from weaksam_d2.projects.s2c import S2CClassifier, add_s2c_config

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.ops import encode_rle

SIZE = (48, 64)  # height, width of the images
SIDE = 32  # of a crop
TINY = (
    *("MODEL.META_ARCHITECTURE", "S2CClassifier", "MODEL.CLASSIFIER.NETWORK", "S2C"),
    *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.BACKBONE.NAME", "build_timm_backbone"),
    *("MODEL.TIMM.NAME", "test_efficientnet", "MODEL.TIMM.OUT_INDICES", (2,)),
    *("MODEL.S2C.IN_FEATURE", "c3", "MODEL.S2C.FEATURE_DIM", 8, "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("MODEL.S2C.EPOCH_ITERS", 1, "MODEL.S2C.PEAK_RADIUS", 5, "WEAKSAM.SAM.BACKEND", "FakeSam"),
    *("MODEL.S2C.CPM_SCALES", (0.5, 1.0), "INPUT.FORMAT", "RGB", "INPUT.MAPPER_NAME", "S2CMapper"),
    *("INPUT.S2C.CROP_SIZE", SIDE, "INPUT.S2C.LONGEST_SIDE", (24, 48)),
    *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 0.01),
)


@pytest.fixture()
def tiny_cfg() -> Callable[..., Any]:
    """Config of a model with 8 feature channels and 3 classes; takes further keys and values."""

    def make(*changes: Any) -> Any:
        cfg = cli.base_config(add_s2c_config)
        cfg.merge_from_list([*TINY, *changes])
        return cfg

    return make


@pytest.fixture()
def tiny_model(tiny_cfg: Callable[..., Any]) -> Callable[..., S2CClassifier]:
    def make(*changes: Any) -> S2CClassifier:
        torch.manual_seed(0)
        return S2CClassifier(tiny_cfg(*changes)).train()

    return make


@pytest.fixture()
def sample() -> Callable[..., dict[str, Any]]:
    """A crop of noise with these tags and four segments."""

    def make(*tags: int, seed: int = 0) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        segments = torch.arange(4).repeat_interleave(SIDE // 4).expand(SIDE, SIDE) + 1
        return {
            "image": 255 * torch.rand(3, SIDE, SIDE, generator=generator),
            "image_labels": torch.tensor(tags, dtype=torch.int64),
            "segments": segments.int(),
            "image_id": f"image {seed}",
        }

    return make


@pytest.fixture()
def photos(tmp_path: Path) -> Iterator[Path]:
    """Four images, a set "s2c_tiny" of their tags, and a store of three masks for each."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    rows = []
    with ProposalStoreWriter(tmp_path / "masks") as writer:
        for number, name in enumerate("abcd"):
            pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
            rows.append(f"{name}.png,c{number % 3}")
            masks = np.zeros((3, *SIZE), bool)
            masks[0], masks[1, 8:40, 8:30], masks[2, 20:44, 20:60] = True, True, True
            boxes = [[0, 0, 64, 48], [8, 8, 30, 40], [20, 20, 60, 44]]
            scores = [0.9, 0.95, 0.8]
            codes = encode_rle(masks)
            writer.add(name, boxes, scores=scores, masks=codes, image_size=SIZE)
    (tmp_path / "tags.csv").write_text("\n".join(rows) + "\n")
    known = set(DatasetCatalog.list())
    register_tagged_folder(
        "s2c_tiny",
        image_root=tmp_path / "photos",
        tags=tmp_path / "tags.csv",
        classes=["c0", "c1", "c2"],
    )
    yield tmp_path
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
