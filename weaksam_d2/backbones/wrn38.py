"""WRN-38, the wide residual network of activation maps and DeepLab: stride 8, 4096 channels."""

from typing import Any

from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.backbones.wrn38_checkpoint import load_wrn38

__all__ = ["WRN38", "build_wrn38_backbone"]

# (name, input, middle, output, stride, dilation of the first convolution, of the second);
# channels in units of the first convolution's.
_BLOCKS = (
    ("b2", 1, 2, 2, 2, 1, 1),
    *((f"b2_{i}", 2, 2, 2, 1, 1, 1) for i in (1, 2)),
    ("b3", 2, 4, 4, 2, 1, 1),
    *((f"b3_{i}", 4, 4, 4, 1, 1, 1) for i in (1, 2)),
    ("b4", 4, 8, 8, 2, 1, 1),
    *((f"b4_{i}", 8, 8, 8, 1, 1, 1) for i in (1, 2, 3, 4, 5)),
    ("b5", 8, 8, 16, 1, 1, 2),
    *((f"b5_{i}", 16, 8, 16, 1, 2, 2) for i in (1, 2)),
)
_BOTTLENECKS = (("b6", 16, 32), ("b7", 32, 64))
_DILATION = 4  # of the bottlenecks
_STRIDE = 8
_FROZEN = ("conv1a", "b2", "b2_1", "b2_2")


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (size // 2)
    return nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)


class _Block(nn.Module):
    """Normalize, ReLU, convolve, twice; the shortcut begins behind the first ReLU."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, stride: int, first: int, second: int
    ) -> None:
        super().__init__()
        self.bn_branch2a = FrozenBatchNorm2d(inputs)
        self.conv_branch2a = _conv(inputs, middle, 3, stride, first)
        self.bn_branch2b1 = FrozenBatchNorm2d(middle)
        self.conv_branch2b1 = _conv(middle, outputs, 3, 1, second)
        changes = inputs != outputs or stride != 1
        self.conv_branch1 = _conv(inputs, outputs, 1, stride) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        active = F.relu(self.bn_branch2a(features))
        # Without a change of shape the shortcut is the input itself.
        shortcut = features if self.conv_branch1 is None else self.conv_branch1(active)
        inner = F.relu(self.bn_branch2b1(self.conv_branch2a(active)))
        added: Tensor = self.conv_branch2b1(inner) + shortcut
        return added


class _Bottleneck(nn.Module):
    """1x1, dilated 3x3, 1x1, each behind a normalization and ReLU; dropout of whole channels."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        quarter, half = outputs // 4, outputs // 2
        self.bn_branch2a = FrozenBatchNorm2d(inputs)
        self.conv_branch2a = _conv(inputs, quarter, 1)
        self.bn_branch2b1 = FrozenBatchNorm2d(quarter)
        self.conv_branch2b1 = _conv(quarter, half, 3, 1, _DILATION)
        self.bn_branch2b2 = FrozenBatchNorm2d(half)
        self.conv_branch2b2 = _conv(half, outputs, 1)
        self.conv_branch1 = _conv(inputs, outputs, 1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        active = F.relu(self.bn_branch2a(features))
        inner = self.dropout(F.relu(self.bn_branch2b1(self.conv_branch2a(active))))
        inner = self.dropout(F.relu(self.bn_branch2b2(self.conv_branch2b1(inner))))
        added: Tensor = self.conv_branch2b2(inner) + self.conv_branch1(active)
        return added


class WRN38(Backbone):
    """The feature map ``bn7``: 64 times ``width`` channels at stride 8, behind a ReLU.

    Batch norm is frozen everywhere, ``conv1a`` and ``b2`` to ``b2_2`` do not learn. Names of
    parameters are those of the published files.

    Source: Wu et al., "Wider or Deeper" (2016), model A1, as S2C uses it; wsss.md, Sec. 6.1.
    """

    def __init__(self, *, width: int = 64, dropout: float = 0.2, weights: str = "") -> None:
        """Make the network.

        Args:
            width: channels of the first convolution; others than 64 have no published weights.
            dropout: probability of a channel to be dropped, in the two last blocks.
            weights: file or URL that has all of the network, "" for He initialization.

        Raises:
            ValueError: the file lacks a parameter, has one of another shape, or others.
        """
        super().__init__()
        self._out_features = ["bn7"]
        self._out_feature_strides = {"bn7": _STRIDE}
        self._out_feature_channels = {"bn7": 64 * width}
        self.conv1a = _conv(3, width, 3)
        blocks: list[str] = []
        for name, inputs, middle, outputs, stride, first, second in _BLOCKS:
            sizes = (inputs * width, middle * width, outputs * width)
            self.add_module(name, _Block(*sizes, stride, first, second))
            blocks.append(name)
        for name, inputs, outputs in _BOTTLENECKS:
            self.add_module(name, _Bottleneck(inputs * width, outputs * width, dropout))
            blocks.append(name)
        self._blocks = tuple(blocks)
        self.bn7 = FrozenBatchNorm2d(64 * width)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if weights:
            load_wrn38(self, weights)
        for name in _FROZEN:
            self.get_submodule(name).requires_grad_(False)

    @property
    def size_divisibility(self) -> int:
        """Its stride, so that the map has a whole number of cells."""
        return _STRIDE

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalized images (N, 3, H, W) to ``{"bn7": (N, channels, H / 8, W / 8)}``."""
        features = self.conv1a(images)
        for name in self._blocks:
            features = self.get_submodule(name)(features)
        return {"bn7": F.relu(self.bn7(features))}


@BACKBONE_REGISTRY.register()
def build_wrn38_backbone(cfg: Any, input_shape: ShapeSpec) -> WRN38:
    """Build WRN-38 with the weights of ``MODEL.WRN38.WEIGHTS``."""
    if input_shape.channels != 3:
        raise ValueError(f"WRN-38 takes 3 channels, the input has {input_shape.channels}")
    return WRN38(width=cfg.MODEL.WRN38.WIDTH, weights=cfg.MODEL.WRN38.WEIGHTS)
