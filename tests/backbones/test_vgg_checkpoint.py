"""VGG16 weights of other programs: names, shapes, values, pixels, refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torch import Tensor, nn
from torchvision.models import vgg16

from weaksam_d2.backbones import PIXEL_CONVENTIONS, VGG16, convert_vgg16, save_vgg16
from weaksam_d2.backbones.vgg_checkpoint import choose_pixels, read_vgg16
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.wsod import WSODROIHeads
from weaksam_d2.wsod.box_head import WSODBoxHead

CONVS = (
    *("1_1", "1_2", "2_1", "2_2", "3_1", "3_2", "3_3"),
    *("4_1", "4_2", "4_3", "5_1", "5_2", "5_3"),
)


def hollow(shape: tuple[int, ...]) -> Tensor:
    """Zeros of a shape in the memory of one number."""
    return torch.zeros(1).expand(shape)


@pytest.fixture(scope="module")
def torchvision_net() -> nn.Module:
    """torchvision's network with true convolutions and without memory for its large layers."""
    with torch.device("meta"):
        network = vgg16(init_weights=False)
    network.features.to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in network.features.parameters():
        nn.init.normal_(parameter, std=0.05)
    return network


@pytest.fixture()
def torchvision_state(torchvision_net: nn.Module) -> dict[str, Tensor]:
    state = torchvision_net.state_dict()
    return {k: hollow(v.shape) if v.is_meta else v for k, v in state.items()}


@pytest.fixture()
def caffe_state(torchvision_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under Caffe's names, written out here."""
    names = [f"conv{number}" for number in CONVS] + ["fc6", "fc7", "fc8"]
    theirs = [f"{name}.{part}" for name in names for part in ("weight", "bias")]
    return dict(zip(theirs, torchvision_state.values(), strict=True))


def detector_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of our detector's backbone and box head."""
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["plain5"]
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    with torch.device("meta"):
        box_head = WSODBoxHead(cfg, ShapeSpec(channels=512, height=7, width=7))
        parts = {"backbone": VGG16(), "roi_heads.box_head": box_head}
    cfg.MODEL.WSOD.FC_DIM = 1
    heads = WSODROIHeads(cfg, {"plain5": ShapeSpec(channels=512, stride=8)})
    assert type(heads.box_head) is WSODBoxHead
    return {
        f"{part}.{name}": tuple(value.shape)
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }


def test_converted_names_and_shapes_are_those_of_the_detector(
    torchvision_state: dict[str, Tensor], caffe_state: dict[str, Tensor]
) -> None:
    wanted = detector_shapes()
    assert len(wanted) == 30
    for state in (torchvision_state, caffe_state):
        assert {k: tuple(v.shape) for k, v in convert_vgg16(state).items()} == wanted


def test_every_layout_gives_the_same_tensors(
    torchvision_state: dict[str, Tensor], caffe_state: dict[str, Tensor]
) -> None:
    short = {"weight": "w", "bias": "b"}
    caffe2 = {f"{k.split('.')[0]}_{short[k.split('.')[1]]}": v for k, v in caffe_state.items()}
    found = [convert_vgg16(state) for state in (torchvision_state, caffe_state, caffe2)]
    for key, value in found[0].items():
        assert all(other[key].data_ptr() == value.data_ptr() for other in found[1:]), key
    assert (
        convert_vgg16(
            {k: v.half() for k, v in caffe_state.items() if "fc" not in k}
            | {k: v for k, v in caffe_state.items() if "fc" in k}
        )["backbone.stages.plain1.conv1_1.weight"].dtype
        == torch.float32
    )


def test_the_converted_network_computes_what_torchvision_computes(
    torchvision_net: nn.Module, torchvision_state: dict[str, Tensor]
) -> None:
    backbone = VGG16(conv5_dilation=1).eval()
    prefix = "backbone."
    converted = convert_vgg16(torchvision_state)
    own = {k.removeprefix(prefix): v for k, v in converted.items() if k.startswith(prefix)}
    backbone.load_state_dict(own, strict=True)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        found = nn.functional.max_pool2d(backbone(images)["plain5"], 2)
        wanted = torchvision_net.features(images)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(found, wanted)


def test_the_head_reads_a_region_channel_by_channel_as_the_files_do() -> None:
    head = WSODBoxHead(ShapeSpec(channels=2, height=3, width=3), num_fc=1, fc_dim=1).eval()
    channel, row, column = 1, 2, 0
    with torch.no_grad():
        head.layers.fc6.weight.zero_()
        head.layers.fc6.weight[0, channel * 9 + row * 3 + column] = 1
        region = torch.arange(18.0).reshape(1, 2, 3, 3)
        assert head(region).item() == region[0, channel, row, column] == 15


def test_the_checkpointer_loads_the_file(
    tmp_path: Path, caffe_state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"state_dict": caffe_state}, tmp_path / "in.pth")
    assert save_vgg16(tmp_path / "out.pth", tmp_path / "in.pth") == "caffe"
    model = nn.Module()
    model.backbone = VGG16()
    left = DetectionCheckpointer(model).load(str(tmp_path / "out.pth"))
    state = model.backbone.state_dict()
    assert state["stages.plain5.conv5_3.weight"].equal(caffe_state["conv5_3.weight"])
    assert not [name for name in left if name == "trainer"]
    about = torch.load(tmp_path / "out.pth", weights_only=True)["vgg16"]
    assert about["layout"] == "caffe" and about["source"] == "in.pth"
    assert (about["format"], about["mean"]) == ("BGR", (102.9801, 115.9465, 122.7717))


def test_arrays_of_numpy_are_read(tmp_path: Path, caffe_state: dict[str, Tensor]) -> None:
    arrays = {key: value.numpy() for key, value in caffe_state.items() if "fc" not in key}
    np.savez(tmp_path / "in.npz", **arrays)
    np.save(tmp_path / "in.npy", arrays, allow_pickle=True)
    from_zip = read_vgg16(tmp_path / "in.npz")
    with pytest.raises(ValueError, match=r"in\.npy is a pickle .*--allow-pickle"):
        read_vgg16(tmp_path / "in.npy")
    from_pickle = read_vgg16(tmp_path / "in.npy", allow_pickle=True)
    for key, value in arrays.items():
        assert from_zip[key].equal(torch.from_numpy(value)) and from_zip[key].equal(
            from_pickle[key]
        )


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s.pop("features.10.bias"), r"features\.10\.bias is missing"),
        (lambda s: s.update(extra=hollow((2,))), "extra is superfluous"),
        (
            lambda s: s.update({"classifier.0.weight": hollow((4096, 512))}),
            r"classifier\.0\.weight has shape \(4096, 512\) instead of \(4096, 25088\)",
        ),
        (lambda s: s.update({"classifier.3.bias": hollow((4096,)) / 0}), "not finite"),
        (lambda s: s.pop("features.0.weight"), "no names of a VGG16"),
    ],
)
def test_what_is_not_a_vgg16_is_refused(
    torchvision_state: dict[str, Tensor],
    spoil: Callable[[dict[str, Tensor]], Any],
    message: str,
) -> None:
    spoil(torchvision_state)
    with pytest.raises(ValueError, match=message):
        convert_vgg16(torchvision_state)


def test_pixels_are_said_or_known_and_never_guessed() -> None:
    assert choose_pixels("auto", "torchvision", "397923af8e79") == "torchvision"
    assert choose_pixels("auto", "caffe2", "0" * 8) == "caffe"
    assert choose_pixels("caffe_rounded", "torchvision", "0" * 8) == "caffe_rounded"
    with pytest.raises(ValueError, match="say which with --pixels"):
        choose_pixels("auto", "torchvision", "0" * 8)


@pytest.mark.parametrize("name", PIXEL_CONVENTIONS)
def test_the_printed_lines_are_a_config(name: str, tmp_path: Path) -> None:
    cfg = get_cfg()
    (tmp_path / "own.yaml").write_text(PIXEL_CONVENTIONS[name].config_lines("w.pth"))
    cfg.merge_from_file(str(tmp_path / "own.yaml"))
    assert cfg.MODEL.WEIGHTS == "w.pth" and PIXEL_CONVENTIONS[name].format == cfg.INPUT.FORMAT
    assert tuple(cfg.MODEL.PIXEL_MEAN) == PIXEL_CONVENTIONS[name].mean
    # Blue has the smallest mean in all of them: last in RGB, first in BGR.
    order = list(cfg.MODEL.PIXEL_MEAN)
    assert order == sorted(order, reverse=cfg.INPUT.FORMAT == "RGB")
    assert yaml.safe_load(PIXEL_CONVENTIONS[name].config_lines("w.pth"))["MODEL"]["PIXEL_STD"]
