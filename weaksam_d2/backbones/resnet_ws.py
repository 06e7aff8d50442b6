"""ResNet-WS: residual networks for weakly supervised detection, with fine maps."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from torch import Tensor, nn

__all__ = ["SmallKernelStem", "StagePool", "build_resnet_ws_backbone", "make_resnet_ws"]

# Blocks of res2 to res5 (He et al., 2016, Table 1).
BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BASIC = (18, 34)  # depths of two 3x3 convolutions in a block
STAGES = ("res2", "res3", "res4", "res5")


class SmallKernelStem(CNNBlockBase):
    """Three 3x3 convolutions (the first with stride 2) and a 2x2 max pool: stride 4."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        """Make ``conv1`` to ``conv3`` with a norm of detectron2's name each."""
        super().__init__(in_channels, out_channels, 4)
        for number in (1, 2, 3):
            conv = Conv2d(
                in_channels if number == 1 else out_channels,
                out_channels,
                kernel_size=3,
                stride=2 if number == 1 else 1,
                padding=1,
                bias=False,
                norm=get_norm(norm, out_channels),
            )
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            self.add_module(f"conv{number}", conv)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, channels, H / 4, W / 4)."""
        features = images
        for number in (1, 2, 3):
            features = F.relu(self.get_submodule(f"conv{number}")(features))
        return F.max_pool2d(features, kernel_size=2, stride=2)


class StagePool(CNNBlockBase):
    """2x2 max pool at the end of a stage; with stride 1 the map keeps its size.

    NOTE: released code does not pad its pool of stride 1, which leaves the map one cell short.
    """

    def __init__(self, channels: int, stride: int) -> None:
        """Stride 2, or 1 where dilation replaces the stride."""
        super().__init__(channels, channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W), at least 0 (after a ReLU), to (N, C, H / stride, W / stride)."""
        if self.stride == 1:
            features = F.pad(features, (0, 1, 0, 1))  # 0 never wins against a ReLU's output
        return F.max_pool2d(features, kernel_size=2, stride=self.stride)


def make_resnet_ws(
    depth: int,
    *,
    in_channels: int = 3,
    stem_channels: int = 64,
    res2_channels: int = 256,
    bottleneck_channels: int = 64,
    num_groups: int = 1,
    norm: str = "FrozenBN",
    dilation: int = 2,
    out_features: Sequence[str] = ("res5",),
    freeze_at: int = 0,
) -> ResNet:
    """Make a ResNet-WS of detectron2's blocks; parameters are named as in the released weights.

    It differs from a ResNet in three ways: a stem of small kernels; max pools at the ends of res2
    and res3 in place of convolutions with a stride; and no downsampling after these, so that res5
    has stride 16, or 8 with ``dilation`` 2 (the pool of res3 then has stride 1, and the 3x3
    convolutions of res4 and res5 are dilated: the same values on a grid twice as fine).

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: channels of an image.
        stem_channels: of the stem's output.
        res2_channels: of res2's output; every later stage doubles it. 64 for depth 18 and 34.
        bottleneck_channels: of res2's 3x3 convolutions (depth 50 and more).
        num_groups: of these convolutions.
        norm: name of detectron2's norm.
        dilation: 1 or 2, see above.
        out_features: among res2 to res5; later stages are not made.
        freeze_at: the stem (1) and stages to ``res<freeze_at>`` do not learn, and their batch
            norms become fixed; 5: the whole network, as released.

    Raises:
        ValueError: a value is out of range; names its config key.

    Source: DRN-WSOD (Shen et al., ECCV 2020) for the principles (redundant neck, small kernels
    and max pools, dilation); where they apply, from its released code. The neck is the box head.
    """
    _check(depth, res2_channels, num_groups, dilation, out_features, freeze_at)
    stem = SmallKernelStem(in_channels, stem_channels, norm)
    channels, width, inner = stem_channels, res2_channels, bottleneck_channels
    stages = []
    for index in range(max(STAGES.index(name) for name in out_features) + 1):
        options: dict[str, Any] = {"in_channels": channels, "out_channels": width, "norm": norm}
        if depth not in BASIC:
            options |= {"bottleneck_channels": inner, "num_groups": num_groups}
        block = BasicBlock if depth in BASIC else BottleneckBlock
        blocks = ResNet.make_stage(block, BLOCKS[depth][index], **options)
        if index >= 2:
            _dilate(blocks, dilation)
        elif index == 1 and dilation == 2:
            blocks.append(StagePool(width, 1))
        else:
            blocks.append(StagePool(width, 2))
        stages.append(blocks)
        channels, width, inner = width, 2 * width, 2 * inner
    return ResNet(stem, stages, out_features=list(out_features), freeze_at=freeze_at)


def _check(
    depth: int,
    res2_channels: int,
    num_groups: int,
    dilation: int,
    out_features: Sequence[str],
    freeze_at: int,
) -> None:
    if depth not in BLOCKS:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {depth}, expected one of {sorted(BLOCKS)}")
    if depth in BASIC and (res2_channels != 64 or num_groups != 1):
        raise ValueError(
            f"MODEL.RESNETS.DEPTH {depth} needs RES2_OUT_CHANNELS 64 and NUM_GROUPS 1, got "
            f"{res2_channels} and {num_groups}"
        )
    if dilation not in (1, 2):
        raise ValueError(f"MODEL.RESNETS.RES5_DILATION must be 1 or 2, got {dilation}")
    if not out_features or not set(out_features) <= set(STAGES):
        raise ValueError(
            f"MODEL.RESNETS.OUT_FEATURES is {tuple(out_features)}, known: {list(STAGES)}"
        )
    if not 0 <= freeze_at <= 5:
        raise ValueError(f"MODEL.BACKBONE.FREEZE_AT must be from 0 to 5, got {freeze_at}")


def _dilate(blocks: Sequence[nn.Module], dilation: int) -> None:
    """Dilate every 3x3 convolution (detectron2's ``BasicBlock`` has no option for it)."""
    for block in blocks:
        for module in block.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (dilation, dilation)


@BACKBONE_REGISTRY.register()
def build_resnet_ws_backbone(cfg: Any, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet-WS from ``MODEL.RESNETS`` and ``MODEL.BACKBONE.FREEZE_AT``.

    Raises:
        ValueError: deformable convolutions are asked for, or see :func:`make_resnet_ws`.
    """
    node = cfg.MODEL.RESNETS
    if any(node.DEFORM_ON_PER_STAGE):
        raise ValueError(
            "build_resnet_ws_backbone has no deformable convolutions: set "
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE to False for each stage"
        )
    return make_resnet_ws(
        node.DEPTH,
        in_channels=input_shape.channels,
        stem_channels=node.STEM_OUT_CHANNELS,
        res2_channels=node.RES2_OUT_CHANNELS,
        bottleneck_channels=node.NUM_GROUPS * node.WIDTH_PER_GROUP,
        num_groups=node.NUM_GROUPS,
        norm=node.NORM,
        dilation=node.RES5_DILATION,
        out_features=node.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
