"""Class activation maps of a convolutional network (weaksam.md, Sec. 2.3, "CNN CAM")."""

import math
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
    """A linear classifier of every cell of a CNN's feature maps.

    The backbone's levels are joined at the finest stride (deep ones say what, shallow ones where),
    each channel is standardized, and a linear layer gives a score of each class in each cell,
    ``w_c . F``. The class logit is the log-sum-exp of these scores over the image's valid cells
    (a soft maximum; Pinheiro and Collobert, CVPR 2015) plus a bias, so that the map
    ``ReLU(w_c . F)`` shows what decided (Zhou et al., CVPR 2016).

    NOTE: the plain average of Zhou et al. asks the whole image to look like the class. On a few
    hundred images its peaks lie in the surroundings much more often than those of a soft maximum.
    """

    kinds = ("coarse",)

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        sharpness: float = 2.0,
        dropout: float = 0.0,
    ) -> None:
        """Build the classifier.

        Args:
            backbone: a detectron2 backbone with a single output.
            sharpness: r of the pooling ``log(mean(exp(r * score))) / r``; 0 is the average,
                infinity the maximum.
            dropout: probability with which a whole channel of an image is set to zero.

        Raises:
            ValueError: if the backbone has several outputs or the sharpness is not positive.
        """
        super().__init__()
        self.backbone = backbone
        (self.level, shape), *others = backbone.output_shape().items()
        if others:
            raise ValueError(f"CNN takes a backbone of one level, got {len(others) + 1} levels")
        if sharpness <= 0:
            raise ValueError(f"sharpness of the pooling must be positive, got {sharpness}")
        self.sharpness = sharpness
        self.standardize = nn.BatchNorm1d(shape.channels, affine=False, momentum=0.05)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(shape.channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.constant_(self.classifier.bias, 0.0)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL.TIMM``."""
        return {
            "backbone": build_timm_concat_backbone(cfg, ShapeSpec(channels=3)),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        }

    def features(self, images: Tensor) -> Tensor:
        """The backbone's features (N, channels, h, w) of normalized images, not standardized."""
        height, width = images.shape[-2:]
        divisor = self.backbone.size_divisibility or 1
        # With a remainder the levels would differ in what a cell covers, and in their phase.
        padded = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        features: Tensor = self.backbone(padded)[self.level]
        return _valid_part(features, tuple(padded.shape[-2:]), (height, width))

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """One term: the soft maximum of the class scores over each image's valid part, plus bias.

        Cells of the padding would make a logit depend on the other images of the batch.
        """
        features = self.features(images)
        whole = (images.shape[-2], images.shape[-1])
        valid = [whole] * len(images) if sizes is None else sizes
        rows = [
            _valid_part(row, whole, size).flatten(1).T
            for row, size in zip(features, valid, strict=True)
        ]
        cells = self.standardize(torch.cat(rows)).split([len(row) for row in rows])
        pooled = []
        for row in cells:
            kept = row * self.dropout(row.new_ones(1, row.shape[1]))
            scores = F.linear(kept, self.classifier.weight) * self.sharpness
            pooled.append((scores.logsumexp(dim=0) - math.log(len(row))) / self.sharpness)
        return [torch.stack(pooled) + self.classifier.bias]

    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        """Coarse maps float (m, h, w) of one view (3, H, W); no fine and no cross maps."""
        features = self.features(image[None])[0]
        cells = self.standardize(features.flatten(1).T)
        scores = F.linear(cells, self.classifier.weight[classes])
        return ViewMaps(coarse=F.relu(scores).T.reshape(len(classes), *features.shape[1:]))


def _valid_part(features: Tensor, whole: tuple[int, ...], size: tuple[int, int]) -> Tensor:
    """The cells of (..., h, w) features of a padded image that touch its first size pixels."""
    rows, columns = (
        -(-cells * valid // full)
        for cells, valid, full in zip(features.shape[-2:], size, whole, strict=True)
    )
    return features[..., :rows, :columns]
