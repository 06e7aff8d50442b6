"""A number of classes that a data set has not is refused before anything is trained."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.engine import cli
from weaksam_d2.engine.training.class_count import check_class_count
from weaksam_d2.engine.training.trainer import WeakSAMTrainer
from weaksam_d2.model_zoo import get_config_file


@pytest.fixture
def sets(tmp_path: Path) -> Iterator[None]:
    """Three classes; two classes; none; three that are known only once the set is loaded."""
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    record = {"file_name": str(tmp_path / "a.png"), "image_id": "a", "height": 40, "width": 40}

    def late() -> list[dict[str, Any]]:
        MetadataCatalog.get("late").thing_classes = ["a", "b", "c"]
        return [{**record, "image_labels": [0]}]

    for name, classes in (("three", ["a", "b", "c"]), ("two", ["a", "b"]), ("plain", None)):
        DatasetCatalog.register(name, lambda: [{**record, "image_labels": [0]}])
        MetadataCatalog.get(name).set(**({"thing_classes": classes} if classes else {}))
    DatasetCatalog.register("late", late)
    yield
    for name in ("three", "two", "plain", "late"):
        DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


def config(name: str, train: str, test: str = "") -> Any:
    cfg = cli.base_config()
    cfg.merge_from_file(get_config_file(f"quick_schedules/{name}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS = "cpu", ""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (test,) if test else ()
    return cfg


@pytest.mark.parametrize(
    "name", ["classifier_lite0", "weaktr_tiny", "oicr_lite0", "faster_rcnn_lite0_roi_drop"]
)
def test_the_default_of_80_classes_is_refused_for_every_trained_model(
    name: str, sets: None
) -> None:
    cfg = config(name, "three")
    wanted = r"MODEL\.ROI_HEADS\.NUM_CLASSES is 80, .*'three' of DATASETS\.TRAIN has 3 .*a, b, c"
    with pytest.raises(ValueError, match=wanted):
        WeakSAMTrainer(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    check_class_count(cfg)


@pytest.mark.parametrize(
    ("train", "test", "refused"),
    [
        ("three", "two", "'two' of DATASETS.TEST has 2"),
        ("late", "", ""),
        ("two", "", "'two' of DATASETS.TRAIN has 2"),
        ("plain", "three", ""),
        ("nowhere", "", ""),  # the loader says that it is not registered
    ],
)
def test_each_data_set_is_judged_by_its_own_names(
    train: str, test: str, refused: str, sets: None
) -> None:
    cfg = config("oicr_lite0", train, test)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    if refused:
        with pytest.raises(ValueError, match=refused):
            check_class_count(cfg)
    else:
        check_class_count(cfg)
    assert "nowhere" not in MetadataCatalog.list()


def test_a_retinanet_has_a_key_of_its_own_and_a_model_without_classes_none(sets: None) -> None:
    cfg = config("oicr_lite0", "three")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "RetinaNet", 3
    with pytest.raises(ValueError, match=r"MODEL\.RETINANET\.NUM_CLASSES is 80.*'three'"):
        check_class_count(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    check_class_count(cfg)
