"""DeepLab heads for pseudo labels: V2, and detectron2's V3+ with a loss over labeled pixels."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab import DeepLabV3PlusHead
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.segmentation.losses import LabelLoss

__all__ = ["DeepLabV2Head", "LabelDeepLabV3PlusHead"]


@SEM_SEG_HEADS_REGISTRY.register()
class DeepLabV2Head(nn.Module):
    """The sum of dilated 3x3 convolutions on one feature map, upsampled to the image.

    Source: DeepLab-V2 (Chen et al., 2017), "ASPP-L"; wsss.md, Sec. 8.3.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        in_feature: str,
        num_classes: int,
        dilations: Sequence[int],
        loss: nn.Module,
        loss_weight: float = 1.0,
        ignore_value: int = 255,
    ) -> None:
        """Make one convolution for each dilation.

        Raises:
            ValueError: no dilation, or the backbone has no such feature.
        """
        super().__init__()
        if in_feature not in input_shape or not dilations:
            raise ValueError(
                f"DeepLabV2Head takes one of the features {sorted(input_shape)} and at least one "
                f"of MODEL.SEM_SEG_HEAD.ASPP_DILATIONS, got {in_feature!r} and {dilations}"
            )
        shape = input_shape[in_feature]
        self.in_feature = in_feature
        self.common_stride = shape.stride
        self.loss = loss
        self.loss_weight = loss_weight
        self.ignore_value = ignore_value  # SemanticSegmentor pads labels with it
        branches = [
            nn.Conv2d(shape.channels, num_classes, 3, padding=rate, dilation=rate)
            for rate in dilations
        ]
        for branch in branches:
            nn.init.normal_(branch.weight, std=0.01)
            nn.init.constant_(cast(Tensor, branch.bias), 0)
        self.branches = nn.ModuleList(branches)

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``MODEL.SEM_SEG_HEAD``; one feature is wanted."""
        node = cfg.MODEL.SEM_SEG_HEAD
        if len(node.IN_FEATURES) != 1:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(node.IN_FEATURES)}, DeepLabV2Head takes "
                f"one of {sorted(input_shape)}"
            )
        return {
            "input_shape": input_shape,
            "in_feature": node.IN_FEATURES[0],
            "num_classes": node.NUM_CLASSES,
            "dilations": node.ASPP_DILATIONS,
            "loss": LabelLoss(cfg),
            "loss_weight": node.LOSS_WEIGHT,
            "ignore_value": node.IGNORE_VALUE,
        }

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """Features to (None, losses) in training, else to (logits (N, C, H, W), {})."""
        feature = features[self.in_feature]
        first, *others = (branch(feature) for branch in self.branches)
        logits = F.interpolate(
            sum(others, start=first),
            scale_factor=self.common_stride,
            mode="bilinear",
            align_corners=False,
        )
        if self.training:
            return None, {"loss_sem_seg": self.loss(logits, targets) * self.loss_weight}
        return logits, {}


@SEM_SEG_HEADS_REGISTRY.register()
class LabelDeepLabV3PlusHead(DeepLabV3PlusHead):  # type: ignore[misc]
    """detectron2's DeepLab-V3+ with the losses of ``LabelLoss``.

    The mean is over the pixels that have a label. The image-level branch pools the whole map, not
    a window of the crop's size, so that images may be smaller than a crop.
    """

    @configurable
    def __init__(self, input_shape: Any, *, label_loss: nn.Module, **kwargs: Any) -> None:
        """Take the parent's arguments and the loss that stands in for its own."""
        super().__init__(input_shape, **kwargs)
        self.loss = label_loss

    @classmethod
    def from_config(cls, cfg: Any, input_shape: Any) -> dict[str, Any]:
        """As the parent, without the size of the crop."""
        whole = cfg.clone()
        whole.defrost()
        whole.INPUT.CROP.ENABLED = False  # the parent takes its size for the pooling window
        arguments = super().from_config(whole, input_shape)
        return {**arguments, "loss_type": "cross_entropy", "label_loss": LabelLoss(cfg)}
