"""Class activation maps of a convolutional network (weaksam.md, Sec. 2.3, "CNN CAM")."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.backbones import build_timm_concat_backbone

from .classifier import CAM_NETWORK_REGISTRY, CamNetwork, ViewMaps

__all__ = ["CNN"]


@CAM_NETWORK_REGISTRY.register()
class CNN(CamNetwork):
    """A backbone of one feature map, a projection of it, and a 1x1 convolution as classifier.

    From a config, the map joins the levels ``MODEL.TIMM.OUT_INDICES`` at the stride of the finest;
    of strides 16 and 32 the deep one says what, the shallow one where. The class logit is the mean
    over the image of ``w_c . F`` plus a bias, so the map ``ReLU(w_c . F)`` shows exactly what was
    added up (Zhou et al., CVPR 2016). The bias has no place and is left out of the map.
    """

    kinds = ("coarse",)

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        channels: int = 512,
        dropout: float = 0.2,
    ) -> None:
        """backbone: a detectron2 backbone with a single output; channels: of the projection."""
        super().__init__()
        self.backbone = backbone
        (self.level, shape), *others = backbone.output_shape().items()
        if others:
            raise ValueError(f"CNN takes a backbone of one level, got {len(others) + 1} levels")
        # The levels of efficient networks end in a linear layer; a classifier of their plain
        # average would be linear in the last block's output.
        self.project = nn.Sequential(
            nn.Conv2d(shape.channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.constant_(self.classifier.bias, 0.0)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL.TIMM``."""
        return {
            "backbone": build_timm_concat_backbone(cfg, ShapeSpec(channels=3)),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        }

    def features(self, images: Tensor) -> Tensor:
        """Projected features, not negative, (N, channels, h, w), of normalized images."""
        height, width = images.shape[-2:]
        divisor = self.backbone.size_divisibility or 1
        # With a remainder the levels would differ in what a cell covers, and in their phase.
        padded = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        features: Tensor = self.project(self.backbone(padded)[self.level])
        return _valid_part(features, tuple(padded.shape[-2:]), (height, width))

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """One term: the mean of the signed class maps over each image's valid part, plus bias."""
        features = self.features(images)
        if sizes is None:
            pooled = features.mean(dim=(2, 3))
        else:
            # Averaged over the padding, a logit would depend on the other images of the batch.
            whole = tuple(images.shape[-2:])
            rows = [
                _valid_part(row, whole, size) for row, size in zip(features, sizes, strict=True)
            ]
            pooled = torch.stack([row.mean(dim=(1, 2)) for row in rows])
        logits: Tensor = self.classifier(self.dropout(pooled)[:, :, None, None])
        return [logits[:, :, 0, 0]]

    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        """Coarse maps float (m, h, w) of one view (3, H, W); no fine and no cross maps."""
        weight = self.classifier.weight[classes]
        return ViewMaps(coarse=F.relu(F.conv2d(self.features(image[None]), weight))[0])


def _valid_part(features: Tensor, whole: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """The cells of (..., h, w) features of a padded image that touch its first size pixels."""
    rows, columns = (
        -(-cells * valid // full)
        for cells, valid, full in zip(features.shape[-2:], size, whole, strict=True)
    )
    return features[..., :rows, :columns]
