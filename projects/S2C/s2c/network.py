"""The classifier whose activation maps S2C teaches (S2C, Sec. 3.1; wsss.md, Sec. 6.1)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import configurable
from detectron2.modeling import Backbone, build_backbone
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.cams import CAM_NETWORK_REGISTRY, CamNetwork, ViewMaps

__all__ = ["Maps", "S2C"]

_LARGEST_STRIDE = 16


class Maps(NamedTuple):
    """Feature F (N, D, h, w), not negative, and signed class activation A (N, C, h, w)."""

    features: Tensor
    activations: Tensor


@CAM_NETWORK_REGISTRY.register()
class S2C(CamNetwork):
    """A dilated backbone, a 1 x 1 convolution with ReLU to F, a 1 x 1 convolution to A.

    The class logit is the mean of A over the image, with its sign; the map of a class is its
    positive part, divided by its maximum when it is read (``normalize``).
    """

    kinds = ("coarse",)
    normalize = "max"

    @configurable
    def __init__(
        self, *, backbone: Backbone, in_feature: str, num_classes: int, feature_dim: int = 256
    ) -> None:
        """Build the two convolutions, Xavier-uniform and without bias, on a backbone's output.

        Raises:
            ValueError: the backbone has no output ``in_feature``, or its stride is above 16.
        """
        super().__init__()
        shapes = backbone.output_shape()
        if in_feature not in shapes:
            raise ValueError(
                f"MODEL.S2C.IN_FEATURE is {in_feature!r}, the backbone gives {sorted(shapes)}"
            )
        if shapes[in_feature].stride > _LARGEST_STRIDE:
            raise ValueError(
                f"MODEL.S2C.IN_FEATURE {in_feature!r} has stride {shapes[in_feature].stride}, "
                f"expected at most {_LARGEST_STRIDE}; dilate the backbone"
            )
        self.backbone = backbone
        self.in_feature = in_feature
        self.fc8 = nn.Conv2d(shapes[in_feature].channels, feature_dim, 1, bias=False)
        self.fc9 = nn.Conv2d(feature_dim, num_classes, 1, bias=False)
        for layer in (self.fc8, self.fc9):
            nn.init.xavier_uniform_(layer.weight)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``MODEL.BACKBONE`` and ``MODEL.S2C``."""
        return {
            "backbone": build_backbone(cfg),
            "in_feature": cfg.MODEL.S2C.IN_FEATURE,
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "feature_dim": cfg.MODEL.S2C.FEATURE_DIM,
        }

    def forward(self, images: Tensor) -> Maps:
        """F and A of normalized images float (N, 3, H, W)."""
        height, width = images.shape[-2:]
        divisor = self.backbone.size_divisibility or 1
        padded = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        found = self.backbone(padded)[self.in_feature]
        rows, columns = (
            -(-cells * real // full)
            for cells, real, full in zip(
                found.shape[-2:], (height, width), padded.shape[-2:], strict=True
            )
        )
        features = self.fc8(found[..., :rows, :columns]).relu()
        return Maps(features, self.fc9(features))

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """One term: the mean of A over each image's valid part, with its sign."""
        return [pooled(self(images).activations, (images.shape[-2], images.shape[-1]), sizes)]

    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        """Coarse maps float (m, h, w) of one view (3, H, W): the positive part of A."""
        return ViewMaps(coarse=self(image[None]).activations[0][classes].relu())


def pooled(
    activations: Tensor, whole: tuple[int, int], sizes: Sequence[tuple[int, int]] | None
) -> Tensor:
    """Mean (N, C) of activations (N, C, h, w) over the first sizes pixels of a padded batch."""
    if sizes is None:
        return activations.mean(dim=(-2, -1))
    rows = []
    for row, size in zip(activations, sizes, strict=True):
        cells = [
            -(-count * valid // full)
            for count, valid, full in zip(row.shape[-2:], size, whole, strict=True)
        ]
        rows.append(row[:, : cells[0], : cells[1]].mean(dim=(-2, -1)))
    return torch.stack(rows)
