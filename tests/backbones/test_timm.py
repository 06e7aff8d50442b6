"""timm networks as backbones: levels, pyramid, joined map, freezing, weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn import functional as F

from weaksam_d2.backbones import ConcatLevels, TimmBackbone, load_timm_features
from weaksam_d2.config import add_weaksam_config

LITE0 = "tf_efficientnet_lite0"
IMAGES = torch.rand(1, 3, 64, 96)


@pytest.fixture
def cfg() -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME = LITE0
    return cfg


def make(
    name: str = LITE0, indices: tuple[int, ...] = (1, 2, 3, 4), **options: Any
) -> TimmBackbone:
    return TimmBackbone(load_timm_features(name, indices), **options)


@pytest.mark.parametrize("name", [LITE0, "resnet18"])
def test_levels_are_named_by_stride_and_have_the_shapes_they_promise(name: str) -> None:
    backbone = make(name)
    outputs = backbone(IMAGES)
    assert list(outputs) == ["c2", "c3", "c4", "c5"]
    for key, spec in backbone.output_shape().items():
        assert spec.stride == 2 ** int(key[1:])
        assert outputs[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


@pytest.mark.parametrize("name, channels", [("test_vit", 64), ("deit_tiny_patch16_224", 192)])
def test_a_vision_transformer_gives_one_map_for_images_of_any_size(
    name: str, channels: int
) -> None:
    backbone = make(name, (1,)).eval()
    assert backbone.output_shape() == {"c4": ShapeSpec(channels=channels, stride=16)}
    for height, width in ((64, 96), (32, 48)):
        found = backbone(torch.rand(2, 3, height, width))["c4"]
        assert found.shape == (2, channels, height // 16, width // 16)


def test_a_window_transformer_gives_levels_with_channels_first() -> None:
    backbone = make("swin_tiny_patch4_window7_224", (0, 1)).eval()
    with torch.no_grad():
        found = backbone(IMAGES)
    for key, spec in backbone.output_shape().items():
        assert found[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


def test_levels_of_one_stride_are_refused() -> None:
    with pytest.raises(ValueError, match=r"OUT_INDICES .*\[16, 16\].*one block"):
        make("test_vit", (1, 2))


@pytest.mark.parametrize("freeze_at", [0, 2, 5])
def test_blocks_of_a_vision_transformer_are_frozen_with_its_positions(freeze_at: int) -> None:
    backbone = make("test_vit", (3,), freeze_at=freeze_at).train()
    level = backbone(IMAGES)["c4"]
    assert level.requires_grad == (freeze_at < 5)
    if freeze_at < 5:
        level.sum().backward()
    for name, parameter in backbone.named_parameters():
        inside = name.removeprefix("network.model.")
        block = int(inside.split(".")[1]) if inside.startswith("blocks.") else -1
        frozen = freeze_at == 5 or (freeze_at > 0 and block < freeze_at)
        assert parameter.requires_grad == (parameter.grad is not None) == (not frozen), name


def test_images_are_padded_to_the_coarsest_stride() -> None:
    assert make().size_divisibility == 32
    assert make(indices=(2, 3)).size_divisibility == 16
    assert ConcatLevels(make(indices=(3, 4))).size_divisibility == 32


def test_the_joined_map_has_the_finest_stride_and_all_channels() -> None:
    bottom_up = make(indices=(3, 4)).eval()
    joined = ConcatLevels(bottom_up).eval()
    levels, found = bottom_up(IMAGES), joined(IMAGES)["concat"]
    assert joined.output_shape() == {"concat": ShapeSpec(channels=112 + 320, stride=16)}
    torch.testing.assert_close(found[:, :112], levels["c4"])
    up = F.interpolate(levels["c5"], scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found[:, 112:], up)


@pytest.mark.parametrize(
    "indices, expected",
    [((1, 2, 3, 4), ["p2", "p3", "p4", "p5", "p6"]), ((2, 3), ["p3", "p4", "p5"])],
)
def test_the_pyramid_has_one_level_more(
    cfg: Any, indices: tuple[int, ...], expected: list[str]
) -> None:
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.OUT_INDICES = indices
    cfg.MODEL.TIMM.FPN_CHANNELS = 8
    backbone = build_backbone(cfg)
    outputs = backbone(IMAGES)
    assert list(outputs) == expected
    for key, spec in backbone.output_shape().items():
        assert outputs[key].shape[:2] == (1, 8)
        assert outputs[key].shape[3] == -(-96 // spec.stride)


@pytest.mark.parametrize("name", [LITE0, "resnet18"])
@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_stem_and_levels_are_frozen_and_the_rest_learns(name: str, freeze_at: int) -> None:
    backbone = make(name, freeze_at=freeze_at, freeze_norm=False).train()
    outputs = backbone(IMAGES)
    sum(level.sum() for level in outputs.values()).backward()
    for parameter in backbone.parameters():
        assert parameter.requires_grad == (parameter.grad is not None)
    # A level that is computed by frozen layers alone has no graph, the next one has.
    graphs = [level.grad_fn is not None for level in outputs.values()]
    assert graphs == [index >= freeze_at for index in (1, 2, 3, 4)]
    training = [m.training for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert training[0] == (freeze_at == 0) and training[-1]


@pytest.mark.parametrize("name", ["test_efficientnet", "resnet18"])
@pytest.mark.parametrize("indices", [(2, 3), (3, 4)])
def test_every_parameter_that_learns_gets_a_gradient(name: str, indices: tuple[int, ...]) -> None:
    backbone = make(name, indices, freeze_norm=False)
    torch.stack([level.mean() for level in backbone(IMAGES).values()]).sum().backward()
    learning = {n: p for n, p in backbone.named_parameters() if p.requires_grad}
    assert learning
    assert [n for n, p in learning.items() if p.grad is None] == []


def test_batch_norm_keeps_its_statistics_only_if_frozen() -> None:
    for freeze_norm in (True, False):
        backbone = make(freeze_norm=freeze_norm).train()
        before = {k: v.clone() for k, v in backbone.state_dict().items() if "running_mean" in k}
        backbone(IMAGES)
        after = backbone.state_dict()
        changed = any(not torch.equal(value, after[key]) for key, value in before.items())
        assert changed == (not freeze_norm)
    norms = [m for m in make().modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(p.requires_grad for m in norms for p in m.parameters())


def test_a_whole_frozen_network_runs_without_a_graph_and_as_in_evaluation() -> None:
    backbone = make(freeze_at=5, freeze_norm=False)
    trained = backbone.train()(IMAGES)
    assert not any(level.requires_grad for level in trained.values())
    tested = backbone.eval()(IMAGES)
    assert all(torch.equal(trained[key], tested[key]) for key in trained)


def test_no_graph_is_made_where_the_caller_wants_none() -> None:
    with torch.no_grad():
        assert not make()(IMAGES)["c5"].requires_grad


def test_config_and_keywords_make_the_same_network(cfg: Any) -> None:
    cfg.MODEL.TIMM.OUT_INDICES = (2, 4)
    cfg.MODEL.TIMM.FREEZE_AT = 2
    built, by_hand = build_backbone(cfg), make(indices=(2, 4), freeze_at=2)
    assert built.output_shape() == by_hand.output_shape()
    named = [(n, p.requires_grad) for n, p in built.named_parameters()]
    assert named == [(n, p.requires_grad) for n, p in by_hand.named_parameters()]


@pytest.mark.parametrize("name", [LITE0, "convnext_atto", "test_vit"])
def test_weights_of_a_file_are_all_loaded(tmp_path: Path, name: str) -> None:
    import timm

    torch.manual_seed(1)
    full = timm.create_model(name, pretrained=False)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": full.state_dict()}, path)
    network = load_timm_features(name, (1, 2), str(path))
    given = {k.replace("_", "."): v for k, v in full.state_dict().items()}
    for key, value in network.state_dict().items():
        assert torch.equal(value, given[key.removeprefix("model.").replace("_", ".")]), key


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s.pop("conv_stem.weight"), r"conv_stem\.weight \(missing\)"),
        (
            lambda s: s.update({"bn1.weight": torch.ones(7)}),
            r"bn1\.weight \(7,\) instead of \(32,\)",
        ),
    ],
)
def test_weights_that_do_not_cover_the_network_are_refused(
    tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    state = dict(load_timm_features(LITE0, (4,)).state_dict())
    spoil(state)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=message):
        load_timm_features(LITE0, (4,), str(path))


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="not to 'resnet18'"):
        load_timm_features("resnet18", (4,), "package:efficientnet-lite0")


@pytest.mark.assets
def test_imagenet_weights_of_lite0_are_loaded(require_asset: Callable[..., Path]) -> None:
    from weaksam_d2.weights import load_imagenet_lite0, resolve_weights

    require_asset(lambda: resolve_weights("package:efficientnet-lite0"))
    network = load_timm_features(LITE0, (3, 4), "package:efficientnet-lite0")
    given = load_imagenet_lite0()
    assert all(torch.equal(value, given[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["", "resnet-eighteen"])
def test_an_unknown_network_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.TIMM\.NAME"):
        load_timm_features(name, (4,))


def test_an_impossible_freeze_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 5, got 6"):
        make(freeze_at=6)


@pytest.mark.parametrize("stride", [8, 16])
def test_a_dilated_network_keeps_names_and_weights_and_has_smaller_strides(
    cfg: Any, stride: int
) -> None:
    cfg.MODEL.TIMM.WEIGHTS = "package:efficientnet-lite0"
    plain = build_backbone(cfg).eval()
    cfg.MODEL.TIMM.OUTPUT_STRIDE = stride
    dilated = build_backbone(cfg).eval()
    assert dilated.size_divisibility == stride
    outputs = dilated(IMAGES)
    assert list(outputs) == ["c2", "c3", "c4", "c5"]
    for key, spec in dilated.output_shape().items():
        assert spec.channels == plain.output_shape()[key].channels
        assert spec.stride == min(stride, plain.output_shape()[key].stride)
        assert outputs[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
    theirs = plain.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in dilated.state_dict().items())
    torch.testing.assert_close(outputs["c3"], plain(IMAGES)["c3"])


def test_what_cannot_be_dilated_is_refused(cfg: Any) -> None:
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 4
    with pytest.raises(ValueError, match="OUTPUT_STRIDE is 4, expected 8, 16 or 32"):
        build_backbone(cfg)
    cfg.MODEL.TIMM.OUTPUT_STRIDE, cfg.MODEL.BACKBONE.NAME = 8, "build_timm_fpn_backbone"
    with pytest.raises(ValueError, match="OUTPUT_STRIDE is 8: .*double"):
        build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "swin_tiny_patch4_window7_224", (0, 1)
    with pytest.raises(ValueError, match="swin_tiny.* cannot be dilated"):
        build_backbone(cfg)
