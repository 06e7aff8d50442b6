"""detectron2's dilated ResNet with images filled up to whole cells."""

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from weaksam_d2.backbones import DilatedResNet
from weaksam_d2.config import add_weaksam_config


def test_it_is_the_stock_network_with_another_divisibility() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 4),
            *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16, "MODEL.RESNETS.STEM_TYPE", "basic"),
            *("MODEL.RESNETS.RES4_DILATION", 2, "MODEL.RESNETS.RES5_DILATION", 4),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res5"], "MODEL.BACKBONE.FREEZE_AT", 2),
        ]
    )
    cfg.MODEL.BACKBONE.NAME = "build_resnet_deeplab_backbone"
    stock = build_backbone(cfg).eval()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_dilated_backbone"
    ours = build_backbone(cfg).eval()
    assert isinstance(ours, DilatedResNet)
    assert (stock.size_divisibility, ours.size_divisibility) == (0, 8)
    assert ours.output_shape() == stock.output_shape()
    ours.load_state_dict(stock.state_dict())
    images = torch.rand(1, 3, 40, 48)
    for name, features in stock(images).items():
        torch.testing.assert_close(ours(images)[name], features)
    learning = {name for name, p in stock.named_parameters() if p.requires_grad}
    assert {name for name, p in ours.named_parameters() if p.requires_grad} == learning
    assert learning and not any(name.startswith(("stem", "res2")) for name in learning)
