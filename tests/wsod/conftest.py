"""A tiny weakly supervised detector and batches for it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

import weaksam_d2.backbones
import weaksam_d2.wsod  # noqa: F401  (registers the classes)
from weaksam_d2.config import add_weaksam_config


@pytest.fixture
def wsod_cfg() -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "WSODRCNN"
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.BACKBONE.NAME = "build_timm_concat_backbone"
    cfg.MODEL.TIMM.NAME = "tf_efficientnet_lite0"
    cfg.MODEL.TIMM.OUT_INDICES = (3, 4)
    cfg.MODEL.TIMM.FREEZE_AT = 5
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [127.5] * 3, [127.5] * 3
    cfg.MODEL.ROI_HEADS.NAME = "WSODROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["concat"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.3
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIAlignV2"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.WSOD.FC_DIM, cfg.MODEL.WSOD.NUM_FC = 16, 1
    return cfg


def make_sample(boxes: list[list[float]], labels: list[int], size: int = 64) -> dict[str, Any]:
    tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    proposals = Instances(
        (size, size),
        proposal_boxes=Boxes(tensor),
        objectness_logits=-torch.arange(len(tensor), dtype=torch.float32),
    )
    return {
        "image_id": "a",
        "image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8),
        "height": size,
        "width": size,
        "proposals": proposals,
        "image_labels": torch.tensor(labels, dtype=torch.int64),
    }


@pytest.fixture
def sample() -> Callable[..., dict[str, Any]]:
    return make_sample
