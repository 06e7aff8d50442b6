"""A detector that has learned from boxes is found, and kept out of pipelines."""

from collections.abc import Iterator
from typing import Any

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.training.supervision import (
    box_supervised_weights,
    refuse_box_supervised_weights,
)
from weaksam_d2.projects import add_all_configs


class Learned:
    """An architecture that can start from a published detector."""

    box_supervised_key = "MODEL.KEYPOINT_ON"


@pytest.fixture
def cfg() -> Iterator[Any]:
    META_ARCH_REGISTRY._do_register("Learned", Learned)
    yield base_config(add_all_configs)
    META_ARCH_REGISTRY._obj_map.pop("Learned")


def test_only_a_named_file_of_an_architecture_that_says_so_counts(cfg: Any) -> None:
    assert box_supervised_weights(cfg) == ""  # GeneralizedRCNN
    cfg.MODEL.META_ARCHITECTURE = "Learned"
    assert box_supervised_weights(cfg) == ""
    refuse_box_supervised_weights(cfg, where="retrain.yaml")
    cfg.MODEL._immutable(False)
    cfg.MODEL["KEYPOINT_ON"] = "detector.pth"
    assert box_supervised_weights(cfg) == "detector.pth"
    with pytest.raises(
        ValueError, match=r"retrain.yaml: MODEL.KEYPOINT_ON 'detector.pth' has learned"
    ):
        refuse_box_supervised_weights(cfg, where="retrain.yaml")


@pytest.mark.parametrize("project", ["DINO", "Mask2Former"])
def test_published_detectors_of_the_projects_count(project: str) -> None:
    made = base_config(add_all_configs)
    made.MODEL.META_ARCHITECTURE = project
    made.MODEL[project.upper()].WEIGHTS = "published.pth"
    assert box_supervised_weights(made) == "published.pth"
