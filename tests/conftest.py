"""Fixtures that several test folders share."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REQUIRE_ASSETS = "WEAKSAM_REQUIRE_ASSETS"
REAL_DATA = "WEAKSAM_DATA"

RequireAsset = Callable[["Path | Callable[[], Path]"], Path]


def find_asset(source: Path | Callable[[], Path], *, required: bool) -> Path:
    """The path of an asset; if it is missing, skip the test, or fail it where it is required."""
    try:
        path = source() if callable(source) else source
        if path.exists():
            return path
        problem = f"{path} does not exist"
    except (OSError, RuntimeError) as error:
        problem = str(error)
    if required:
        pytest.fail(f"{REQUIRE_ASSETS}=1 and an asset is missing: {problem}", pytrace=False)
    pytest.skip(f"asset is missing: {problem}")


@pytest.fixture(scope="session")
def require_asset() -> RequireAsset:
    """Function from a path, or from a callable that returns one, to an existing path."""
    required = os.environ.get(REQUIRE_ASSETS) == "1"
    return lambda source: find_asset(source, required=required)


@pytest.fixture(scope="session")
def mobile_sam(require_asset: RequireAsset) -> Path:
    """Weights of MobileSAM."""
    from weaksam_d2.weights import resolve_weights

    return require_asset(lambda: resolve_weights("mobile_sam"))


@pytest.fixture(scope="session")
def real_data(require_asset: RequireAsset) -> Path:
    """Folder of photograph sets (``voc2012`` in VOC layout), named by ``WEAKSAM_DATA``.

    A name that leads nowhere is a mistake and fails; no name is a missing asset.
    """
    folder = os.environ.get(REAL_DATA)
    if folder:
        return find_asset(Path(folder), required=True)

    def unnamed() -> Path:
        raise FileNotFoundError(f"{REAL_DATA} names no folder with real images")

    return require_asset(unnamed)


@pytest.fixture
def event_storage() -> Iterator[Any]:
    """detectron2's storage, without which its models do not train."""
    from detectron2.utils.events import EventStorage

    with EventStorage(0) as storage:
        yield storage


@pytest.fixture(scope="session")
def segmenter_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pipeline to a segmenter leaves: its segmenter (random weights), labels' names."""
    import numpy as np
    import torch
    from detectron2.modeling import build_model

    from weaksam_d2.artifacts import LabelSpace, SemSegLabelsWriter, write_json
    from weaksam_d2.engine.cli import base_config
    from weaksam_d2.engine.stages.stage import declared_config
    from weaksam_d2.model_zoo import get_config_file

    root = tmp_path_factory.mktemp("segmenter_run")
    cfg = base_config()
    cfg.merge_from_file(get_config_file("quick_schedules/deeplab_lite0.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = "cpu", "test_efficientnet", ""
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.INPUT.MIN_SIZE_TEST = 3, 96
    folder = root / "segment" / "segmenter"
    write_json(folder / "config.json", declared_config(cfg, "segment"))
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    made = {"system": "CAM", "base": "custom", "supervision": "image_labels"}
    space = LabelSpace("birds", ["duck", "swan"])
    with SemSegLabelsWriter(root / "labels" / "CAM", space=space, **made) as writer:
        writer.add("a", np.zeros((2, 3), np.uint8))
    return root
