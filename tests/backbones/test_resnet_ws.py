"""ResNet-WS: stride, dilation, names, freezing."""

from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from weaksam_d2.backbones import make_resnet_ws
from weaksam_d2.backbones.resnet_ws import StagePool
from weaksam_d2.config import add_weaksam_config

SMALL: dict[str, Any] = {"stem_channels": 8, "norm": "BN"}
NARROW: dict[str, Any] = {**SMALL, "res2_channels": 16, "bottleneck_channels": 8}


def randomize(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return network.eval()


@pytest.mark.parametrize("depth, options", [(18, {**SMALL, "res2_channels": 64}), (50, NARROW)])
@pytest.mark.parametrize("dilation, stride", [(1, 16), (2, 8)])
def test_maps_have_the_promised_shapes(
    depth: int, options: dict[str, Any], dilation: int, stride: int
) -> None:
    names = ("res2", "res3", "res5")
    network = make_resnet_ws(depth, dilation=dilation, out_features=names, **options).eval()
    with torch.no_grad():
        found = network(torch.rand(1, 3, 64, 96))
    width = options["res2_channels"]
    assert network.output_shape() == {
        "res2": ShapeSpec(channels=width, stride=8),
        "res3": ShapeSpec(channels=2 * width, stride=stride),
        "res5": ShapeSpec(channels=8 * width, stride=stride),
    }
    for name, spec in network.output_shape().items():
        shape = (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
        assert tuple(found[name].shape) == shape


@pytest.mark.parametrize("depth, options", [(18, {**SMALL, "res2_channels": 64}), (50, NARROW)])
def test_dilation_gives_the_same_values_on_a_finer_grid(
    depth: int, options: dict[str, Any]
) -> None:
    """Holes: every second cell sees exactly the cells that the network with strides sees."""
    coarse = randomize(make_resnet_ws(depth, dilation=1, **options))
    fine = make_resnet_ws(depth, dilation=2, **options).eval()
    fine.load_state_dict(coarse.state_dict(), strict=True)
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        wanted, found = coarse(images)["res5"], fine(images)["res5"]
    assert wanted.max() > 0 and not wanted.allclose(found[:, :, 1::2, 1::2])
    torch.testing.assert_close(found[:, :, ::2, ::2], wanted)


def test_the_stem_has_small_kernels_and_no_convolution_of_a_stage_a_stride() -> None:
    network = make_resnet_ws(50, **NARROW)
    convs = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    stem = [convs[f"stem.conv{number}"] for number in (1, 2, 3)]
    assert [conv.kernel_size for conv in stem] == [(3, 3)] * 3
    assert [conv.stride for conv in stem] == [(2, 2), (1, 1), (1, 1)]
    assert all(m.stride == (1, 1) for n, m in convs.items() if not n.startswith("stem"))
    dilated = {n.split(".")[0] for n, m in convs.items() if m.dilation == (2, 2)}
    assert dilated == {"res4", "res5"}


def test_parameters_are_named_as_in_the_released_weights() -> None:
    """A pool at a stage's end adds no parameter, so blocks keep their numbers."""
    names = set(make_resnet_ws(18, **SMALL, res2_channels=64).state_dict())
    assert {n.split(".")[1] for n in names if n.startswith("res3.")} == {"0", "1"}
    assert "stem.conv3.norm.running_mean" in names and "res5.1.conv2.weight" in names
    assert "res3.0.shortcut.weight" in names and "res2.1.shortcut.weight" not in names


def test_a_pool_of_stride_1_keeps_the_size_and_invents_nothing() -> None:
    features = torch.tensor([[1.0, 5.0, 0.0], [2.0, 0.0, 3.0]])[None, None]
    assert StagePool(1, 1)(features).tolist() == [[[[5.0, 5.0, 3.0], [2.0, 3.0, 3.0]]]]
    assert StagePool(1, 2)(features).tolist() == [[[[5.0]]]]


@pytest.mark.parametrize("freeze_at", [0, 1, 3, 5])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(freeze_at: int) -> None:
    network = make_resnet_ws(18, **SMALL, res2_channels=64, freeze_at=freeze_at).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    level = network(torch.rand(2, 3, 32, 32))["res5"]
    if freeze_at < 5:
        level.sum().backward()
    assert level.requires_grad == (freeze_at < 5)
    frozen = (
        {"stem", "res2", "res3", "res4", "res5"}
        if freeze_at == 5
        else {
            name for number, name in enumerate(("stem", "res2", "res3"), 1) if freeze_at >= number
        }
    )
    for name, parameter in network.named_parameters():
        assert (parameter.grad is None) == (name.split(".")[0] in frozen), name
    for name, value in network.state_dict().items():
        if "running_mean" in name:
            assert value.equal(before[name]) == (name.split(".")[0] in frozen), name
    fixed = [n for n, m in network.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    assert {name.split(".")[0] for name in fixed} == frozen


@pytest.fixture()
def cfg() -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_ws_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4"]
    return cfg


def test_config_and_keywords_make_the_same_network(cfg: Any) -> None:
    built = build_backbone(cfg)
    by_hand = make_resnet_ws(18, res2_channels=64, out_features=["res4"], freeze_at=2)
    assert str(built) == str(by_hand) and not hasattr(built, "res5")
    assert built.output_shape() == by_hand.output_shape()
    learns = [[p.requires_grad for p in network.parameters()] for network in (built, by_hand)]
    assert learns[0] == learns[1]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.RESNETS.DEPTH", 20, "DEPTH is 20"),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, "needs RES2_OUT_CHANNELS 64"),
        ("MODEL.RESNETS.RES5_DILATION", 4, "RES5_DILATION must be 1 or 2, got 4"),
        ("MODEL.RESNETS.OUT_FEATURES", ["res6"], "res6"),
        ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True], "deformable"),
        ("MODEL.BACKBONE.FREEZE_AT", 6, "FREEZE_AT must be from 0 to 5, got 6"),
    ],
)
def test_wrong_values_name_their_key(cfg: Any, key: str, value: Any, message: str) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_backbone(cfg)
