"""VGG16 as weakly supervised detection uses it: no pool4, dilated conv5, stride 8."""

from collections.abc import Sequence
from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

__all__ = ["VGG16", "build_vgg_backbone"]

# (channels, convolutions) of conv1 to conv5 (Simonyan and Zisserman, 2015, configuration D).
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG16(Backbone):
    """Stages ``plain1`` ... ``plain5``: 3x3 convolutions with ReLU, a max pool between stages.

    With ``conv5_dilation`` 2 there is no pool4 and stage 5 has stride 8; with 1 the network is
    the ordinary one and stage 5 has stride 16. Convolutions are named ``conv1_1`` ... ``conv5_3``.

    Source: weaksam.md, Sec. 5.2.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        conv5_dilation: int = 2,
        last_relu: bool = True,
        out_features: Sequence[str] = ("plain5",),
        freeze_at: int = 2,
    ) -> None:
        """Make the convolutions with He initialization.

        Args:
            in_channels: channels of an image.
            conv5_dilation: 2 or 1, see above.
            last_relu: whether a ReLU follows conv5_3.
            out_features: which stages are given.
            freeze_at: conv1 to this stage do not learn; 0: all learn.

        Raises:
            ValueError: if a value is out of range.
        """
        super().__init__()
        known = [f"plain{i + 1}" for i in range(len(STAGES))]
        if not out_features or not set(out_features) <= set(known):
            raise ValueError(f"MODEL.VGG.OUT_FEATURES is {tuple(out_features)}, known: {known}")
        if conv5_dilation not in (1, 2):
            raise ValueError(f"MODEL.VGG.CONV5_DILATION must be 1 or 2, got {conv5_dilation}")
        if not 0 <= freeze_at <= len(STAGES):
            raise ValueError(f"MODEL.BACKBONE.FREEZE_AT must be from 0 to 5, got {freeze_at}")
        self._out_features = list(out_features)
        self._out_feature_strides: dict[str, int] = {}
        self._out_feature_channels: dict[str, int] = {}
        self.stages = nn.ModuleDict()
        channels, stride = in_channels, 1
        for index, (width, depth) in enumerate(STAGES):
            pooled = index > 0 and not (index == 4 and conv5_dilation == 2)
            stride *= 2 if pooled else 1
            self.stages[known[index]] = _make_stage(
                index + 1,
                (channels, width, depth),
                pooled=pooled,
                dilation=conv5_dilation if index == 4 else 1,
                last_relu=last_relu or index < 4,
            )
            self._out_feature_strides[known[index]] = stride
            self._out_feature_channels[known[index]] = width
            channels = width
        for name in known[:freeze_at]:
            for parameter in self.stages[name].parameters():
                parameter.requires_grad_(False)

    @property
    def size_divisibility(self) -> int:
        """32, as in the published recipes."""
        return 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Normalized images (N, 3, H, W) to ``{"plain<n>": (N, channels, H / s, W / s)}``."""
        outputs = {}
        features = images
        for name, stage in self.stages.items():
            features = stage(features)
            if name in self._out_features:
                outputs[name] = features
        return outputs


def _make_stage(
    number: int, shape: tuple[int, int, int], *, pooled: bool, dilation: int, last_relu: bool
) -> nn.Sequential:
    """One stage; the pool comes first so that a stage's output is what its name says."""
    channels, width, depth = shape
    stage = nn.Sequential()
    if pooled:
        stage.add_module(f"pool{number - 1}", nn.MaxPool2d(2))
    for i in range(1, depth + 1):
        conv = nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        stage.add_module(f"conv{number}_{i}", conv)
        if last_relu or i < depth:
            stage.add_module(f"relu{number}_{i}", nn.ReLU())
        channels = width
    return stage


@BACKBONE_REGISTRY.register()
def build_vgg_backbone(cfg: Any, input_shape: ShapeSpec) -> VGG16:
    """Build VGG16 from ``MODEL.VGG`` and ``MODEL.BACKBONE.FREEZE_AT``."""
    node = cfg.MODEL.VGG
    return VGG16(
        in_channels=input_shape.channels,
        conv5_dilation=node.CONV5_DILATION,
        last_relu=node.LAST_RELU,
        out_features=node.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
