"""WRN-38: shapes, names, what learns, and its blocks step by step."""

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch.nn import functional as F

from weaksam_d2.backbones import WRN38
from weaksam_d2.config import add_weaksam_config


def randomized(network: WRN38) -> WRN38:
    """Batch norms that do something."""
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for name in ("weight", "bias", "running_mean"):
                getattr(module, name).normal_(std=0.1).add_(name == "weight")
            module.running_var.uniform_(0.5, 1.5)
    return network


def test_the_map_has_stride_8_and_the_last_layers_channels() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.WRN38.WIDTH = "build_wrn38_backbone", 2
    backbone = build_backbone(cfg).eval()
    spec = backbone.output_shape()["bn7"]
    assert (spec.channels, spec.stride, backbone.size_divisibility) == (128, 8, 8)
    assert backbone(torch.rand(2, 3, 48, 64))["bn7"].shape == (2, 128, 6, 8)


def test_the_published_network_has_the_published_shapes() -> None:
    with torch.device("meta"):
        state = WRN38().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["conv1a.weight"] == (64, 3, 3, 3)
    assert shapes["b2.conv_branch2a.weight"] == (128, 64, 3, 3)
    assert shapes["b2.conv_branch1.weight"] == (128, 64, 1, 1)
    assert "b2_1.conv_branch1.weight" not in shapes and "b5_1.conv_branch1.weight" not in shapes
    assert shapes["b4_5.conv_branch2b1.weight"] == (512, 512, 3, 3)
    assert shapes["b5.conv_branch2b1.weight"] == (1024, 512, 3, 3)
    assert shapes["b5_2.conv_branch2a.weight"] == (512, 1024, 3, 3)
    assert shapes["b6.conv_branch2a.weight"] == (512, 1024, 1, 1)
    assert shapes["b6.conv_branch2b1.weight"] == (1024, 512, 3, 3)
    assert shapes["b7.conv_branch2b2.weight"] == (4096, 2048, 1, 1)
    assert shapes["b7.bn_branch2b2.running_var"] == (2048,)
    assert shapes["bn7.running_mean"] == (4096,)
    units = {name.split(".")[0] for name in shapes}
    assert len(units) == 3 + 3 + 6 + 3 + 2 + 2  # b2, b3, b4, b5, b6 and b7, conv1a and bn7


def test_batch_norm_never_learns_and_the_first_blocks_do_not_either() -> None:
    network = WRN38(width=2).train()
    learning = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"b3", "b3_1", "b3_2", *(f"b4{j}" for j in ("", "_1", "_2", "_3", "_4"))} | {
        *("b4_5", "b5", "b5_1", "b5_2", "b6", "b7")
    }
    assert not any("bn" in name for name, _ in network.named_parameters())


def reference(network: Any, images: torch.Tensor) -> torch.Tensor:
    """The table of the network, block by block, without its modules' forward functions."""

    def normal(features: torch.Tensor, bn: Any) -> torch.Tensor:
        return F.relu(
            F.batch_norm(
                features, bn.running_mean, bn.running_var, bn.weight, bn.bias, False, 0.0, bn.eps
            )
        )

    def conv(x: torch.Tensor, layer: Any, stride: int = 1, dilation: int = 1) -> torch.Tensor:
        padding = dilation * (layer.weight.shape[-1] // 2)
        return F.conv2d(x, layer.weight, None, stride, padding, dilation)

    x = conv(images, network.conv1a)
    for stage, units in ((2, 3), (3, 3), (4, 6), (5, 3)):
        for unit in range(units):
            block = network.get_submodule(f"b{stage}" + (f"_{unit}" if unit else ""))
            stride = 2 if unit == 0 and stage < 5 else 1
            second = 2 if stage == 5 else 1
            first = 2 if stage == 5 and unit else 1
            active = normal(x, block.bn_branch2a)
            inner = normal(conv(active, block.conv_branch2a, stride, first), block.bn_branch2b1)
            shortcut = conv(active, block.conv_branch1, stride) if unit == 0 else x
            x = shortcut + conv(inner, block.conv_branch2b1, 1, second)
    for block in (network.b6, network.b7):
        active = normal(x, block.bn_branch2a)
        inner = normal(conv(active, block.conv_branch2a), block.bn_branch2b1)
        inner = normal(conv(inner, block.conv_branch2b1, 1, 4), block.bn_branch2b2)
        x = conv(active, block.conv_branch1) + conv(inner, block.conv_branch2b2)
    return normal(x, network.bn7)


def test_it_computes_what_the_table_says() -> None:
    torch.manual_seed(0)
    network = randomized(WRN38(width=2)).eval()
    images = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(images)["bn7"], reference(network, images))


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    network, images = WRN38(width=2), torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.eval()(images)["bn7"], network(images)["bn7"])
        assert not torch.equal(network.train()(images)["bn7"], network(images)["bn7"])
    with pytest.raises(ValueError, match="3 channels"):
        cfg = get_cfg()
        add_weaksam_config(cfg)
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.PIXEL_MEAN = "build_wrn38_backbone", [0.0]
        build_backbone(cfg)
