"""VGG16 with dilated conv5."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone

from weaksam_d2.backbones import VGG16
from weaksam_d2.config import add_weaksam_config


def test_stride_is_8_with_dilation_and_16_without() -> None:
    images = torch.rand(1, 3, 64, 96)
    shapes = {d: VGG16(conv5_dilation=d).eval()(images)["plain5"].shape for d in (1, 2)}
    assert shapes == {1: (1, 512, 4, 6), 2: (1, 512, 8, 12)}
    assert VGG16().output_shape()["plain5"] == ShapeSpec(channels=512, stride=8)
    assert VGG16(conv5_dilation=1).output_shape()["plain5"].stride == 16


def test_conv5_is_dilated_and_nothing_else() -> None:
    convs = {n: m for n, m in VGG16().named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(convs) == 13
    dilated = {n.split(".")[-1] for n, m in convs.items() if m.dilation == (2, 2)}
    assert dilated == {"conv5_1", "conv5_2", "conv5_3"}


def test_the_last_relu_can_be_left_out() -> None:
    torch.manual_seed(0)
    plain, signed = VGG16().eval(), VGG16(last_relu=False).eval()
    signed.load_state_dict(plain.state_dict())
    images = torch.rand(1, 3, 32, 32)
    with_relu, without = plain(images)["plain5"], signed(images)["plain5"]
    assert without.min() < 0
    torch.testing.assert_close(with_relu, without.relu())


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_frozen_stages_have_parameters_that_do_not_learn(freeze_at: int) -> None:
    backbone = VGG16(freeze_at=freeze_at)
    frozen = {n.split(".")[1] for n, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {f"plain{i + 1}" for i in range(freeze_at)}


def test_frozen_stages_get_no_gradient_and_every_other_does() -> None:
    backbone = VGG16(freeze_at=2).train()
    backbone(torch.rand(1, 3, 32, 32))["plain5"].sum().backward()
    for name, parameter in backbone.named_parameters():
        frozen = name.split(".")[1] in ("plain1", "plain2")
        assert (parameter.grad is None) == frozen, name


def test_the_config_makes_the_same_network() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_vgg_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 3
    cfg.MODEL.VGG.OUT_FEATURES = ("plain4", "plain5")
    cfg.MODEL.VGG.LAST_RELU = False
    built = build_backbone(cfg)
    by_hand = VGG16(out_features=("plain4", "plain5"), last_relu=False, freeze_at=3)
    assert str(built) == str(by_hand)
    assert built.output_shape() == by_hand.output_shape()
    assert [p.requires_grad for p in built.parameters()] == [
        p.requires_grad for p in by_hand.parameters()
    ]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"conv5_dilation": 3}, "CONV5_DILATION must be 1 or 2, got 3"),
        ({"out_features": ("plain6",)}, "plain6"),
        ({"freeze_at": 6}, "FREEZE_AT"),
    ],
)
def test_wrong_values_name_their_key(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VGG16(**options)  # type: ignore[arg-type]
