"""The head of docs/roi_drop.md, as it stands there, in a config without a key of ours."""

import re
from pathlib import Path
from typing import Any

import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, build_roi_heads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "roi_drop.md"


def losses_at(heads: Any, iteration: int) -> dict[str, Any]:
    truth = Instances((64, 96), gt_boxes=Boxes(torch.tensor([[4.0, 4, 40, 40]])))
    truth.gt_classes = torch.tensor([1])
    boxes = Boxes(torch.tensor([[4.0, 4, 40, 42], [20, 20, 90, 60]]))
    proposals = Instances((64, 96), proposal_boxes=boxes, objectness_logits=torch.zeros(2))
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    features = {"p3": torch.randn(1, 8, 8, 12, generator=torch.Generator().manual_seed(0))}
    with EventStorage(iteration) as storage:
        torch.manual_seed(0)
        _, losses = heads(images, features, [proposals], [truth])
        active = storage.latest()["roi_drop/active"][0]
    return {"active": active, **losses}


def test_the_documented_head_drops_from_its_start() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert block.rstrip().count("\n") < 10, "the example has at most ten lines"
    names: dict[str, Any] = {}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    try:
        cfg = get_cfg()
        cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "MyHeads", 3
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3"]
        cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 1
        cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
        torch.manual_seed(0)
        heads = build_roi_heads(cfg, {"p3": ShapeSpec(channels=8, stride=8)}).train()
        with torch.no_grad():
            heads.box_predictor.cls_score.bias += torch.tensor([9.0, 0, 0, 0])  # all seems class 0
        before, after = losses_at(heads, 1999), losses_at(heads, 2000)
    finally:
        ROI_HEADS_REGISTRY._obj_map.pop("MyHeads")
    assert (before["active"], after["active"]) == (0, 1)
    assert before["loss_cls"] > 8 and after["loss_cls"] == 0
