"""Joining the detections of several detectors."""

from typing import Any

import numpy as np
import pytest
from detectron2.config import get_cfg

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.pseudo_gt import FusionSettings, build_fusion, fuse_detections

BOXES = np.array([[0, 0, 10, 10], [0, 0, 12, 10], [50, 0, 60, 10]], dtype=np.float64)
SCORES = np.array([0.8, 0.4, 0.5])
GROUPS = np.zeros(3, dtype=np.int64)
DETECTOR = np.array([0, 1, 1])


def fuse(method: str, weights: tuple[float, ...] = ()) -> Any:
    settings = FusionSettings(method, 0.5, weights)
    return fuse_detections(BOXES, SCORES, GROUPS, DETECTOR, detectors=2, settings=settings)


def test_each_method() -> None:
    assert fuse("").scores.tolist() == [0.8, 0.4, 0.5]
    assert fuse("nms").scores.tolist() == [0.8, 0.5]
    assert fuse("wbf").scores.tolist() == pytest.approx([0.6, 0.25])


def test_weights_are_those_of_the_detectors() -> None:
    assert fuse("", (0.5, 2.0)).scores.tolist() == [0.4, 0.8, 1.0]
    np.testing.assert_array_equal(fuse("nms", (0.5, 2.0)).boxes, BOXES[[2, 1]])
    found = fuse("wbf", (0.5, 2.0))  # mean width (10 * .4 + 12 * .8) / 1.2
    assert found.boxes[:, 2].tolist() == pytest.approx([60, 34 / 3])


def test_the_config_names_the_settings() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    assert build_fusion(cfg) == FusionSettings()
    node = cfg.WEAKSAM.PSEUDO_GT
    node.FUSE, node.FUSE_IOU, node.FUSE_WEIGHTS = "wbf", 0.6, (1, 2.5)
    assert build_fusion(cfg) == FusionSettings("wbf", 0.6, (1.0, 2.5))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"method": "mean"}, "FUSE is 'mean'"),
        ({"iou": 1.5}, "FUSE_IOU"),
        ({"weights": (1.0, 0.0)}, "FUSE_WEIGHTS must be positive"),
        ({"weights": (float("nan"),)}, "FUSE_WEIGHTS must be positive"),
    ],
)
def test_wrong_settings_name_their_key(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"PSEUDO_GT.{key}"):
        FusionSettings(**options)


def test_weights_of_another_number_of_detectors_are_refused() -> None:
    with pytest.raises(ValueError, match="has 1 weights for 2 files"):
        fuse("nms", (1.0,))
