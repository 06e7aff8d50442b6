"""Which pooling reads the stride-8 map is a matter of the config."""

import math
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import roi_align

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.wsod import WSODROIHeads

BOXES = torch.tensor([[0.0, 0.0, 96.0, 64.0], [9.0, 13.0, 75.0, 57.0], [20.0, 20.0, 30.0, 41.0]])


def make(kind: str, channels: int = 3) -> WSODROIHeads:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_file(get_config_file("Base-WSOD-VGG16.yaml"))
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIPool"
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE, cfg.MODEL.WSOD.FC_DIM = kind, 5
    return WSODROIHeads(cfg, {"plain5": ShapeSpec(channels=channels, stride=8)}).eval()


def pooled(kind: str, level: Tensor) -> Tensor:
    found: Tensor = make(kind, level.shape[1]).box_pooler([level], [Boxes(BOXES)])
    return found


def slow_pool(level: Tensor, box: list[float], cells: int = 7) -> Tensor:
    """Fast R-CNN, Sec. 2.1: corners rounded to cells, last cell included, maximum of each bin."""
    x1, y1, x2, y2 = (math.floor(corner / 8 + 0.5) for corner in box)
    result = torch.zeros(level.shape[0], cells, cells)
    width, height = max(x2 - x1 + 1, 1) / cells, max(y2 - y1 + 1, 1) / cells
    for row in range(cells):
        for column in range(cells):
            top, bottom = math.floor(row * height), math.ceil((row + 1) * height)
            left, right = math.floor(column * width), math.ceil((column + 1) * width)
            part = level[:, y1 + top : y1 + bottom, x1 + left : x1 + right]
            if part.numel():
                result[:, row, column] = part.amax(dim=(1, 2))
    return result


def test_roi_pool_is_that_of_fast_rcnn_at_an_eighth() -> None:
    torch.manual_seed(0)
    level = torch.rand(1, 3, 8, 12)
    wanted = torch.stack([slow_pool(level[0], box) for box in BOXES.tolist()])
    torch.testing.assert_close(pooled("ROIPool", level), wanted)


@pytest.mark.parametrize(("kind", "aligned"), [("ROIAlign", False), ("ROIAlignV2", True)])
def test_roi_align_is_chosen_by_name(kind: str, aligned: bool) -> None:
    torch.manual_seed(0)
    level = torch.rand(1, 3, 8, 12)
    wanted = roi_align(level, [BOXES], 7, 1 / 8, sampling_ratio=0, aligned=aligned)
    torch.testing.assert_close(pooled(kind, level), wanted)


def test_every_pooling_gives_regions_of_one_shape_and_features_with_gradients() -> None:
    proposals = [Instances((64, 96), proposal_boxes=Boxes(BOXES)) for _ in range(2)]
    found: dict[str, Any] = {}
    for kind in ("ROIPool", "ROIAlign", "ROIAlignV2"):
        level = torch.rand(2, 3, 8, 12, requires_grad=True)
        heads = make(kind)
        found[kind] = heads.region_features({"plain5": level}, proposals).shape
        heads.region_features({"plain5": level}, proposals).sum().backward()
        assert level.grad is not None and bool(level.grad.isfinite().all())
    assert set(found.values()) == {torch.Size((6, 5))}


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="ROICrop"):
        make("ROICrop")
