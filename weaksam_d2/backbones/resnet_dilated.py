"""detectron2's dilated ResNet of DeepLab, for images of any size."""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, ResNet
from detectron2.projects.deeplab import build_resnet_deeplab_backbone

__all__ = ["DilatedResNet", "build_resnet_dilated_backbone"]


class DilatedResNet(ResNet):  # type: ignore[misc]
    """A ResNet whose images are filled up to whole cells of its coarsest map.

    Else an image of 321 pixels has 41 cells of 8, and maps that are upsampled eight times do not
    fit it.
    """

    @property
    def size_divisibility(self) -> int:
        """The largest stride."""
        return int(max(self._out_feature_strides.values()))


@BACKBONE_REGISTRY.register()
def build_resnet_dilated_backbone(cfg: Any, input_shape: ShapeSpec) -> DilatedResNet:
    """Build ``build_resnet_deeplab_backbone`` (same keys and names) as :class:`DilatedResNet`."""
    network = build_resnet_deeplab_backbone(cfg, input_shape)
    stages = [list(stage) for stage in network.stages]
    return DilatedResNet(network.stem, stages, out_features=list(cfg.MODEL.RESNETS.OUT_FEATURES))
