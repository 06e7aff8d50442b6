"""Features of a CNN as the patches of a transformer with class tokens.

For who has tags and no transformer's weights: on a frozen ImageNet CNN a few blocks learn what the
class tokens attend to from some hundred images, where patches of pixels would need millions. Our
own combination; published WeakTr and MCTformer weights are of plain patches.
"""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from weaksam_d2.backbones import build_timm_concat_backbone

__all__ = ["PATCH_EMBEDDINGS", "CnnPatches", "build_patches"]

PATCH_EMBEDDINGS = ("pixels", "cnn")


class CnnPatches(nn.Module):
    """One vector for each 16 x 16 pixels: standardized features of a CNN, mapped linearly.

    Stands where a vision transformer has its convolution of patches.
    """

    stride = 16

    def __init__(self, backbone: Backbone, width: int) -> None:
        """Take a backbone of one level; width: channels of a token.

        Raises:
            ValueError: the backbone has several levels, or another stride than 16.
        """
        super().__init__()
        (self.level, shape), *others = backbone.output_shape().items()
        if others or shape.stride != self.stride:
            strides = [level.stride for level in backbone.output_shape().values()]
            raise ValueError(
                f"patches of a CNN take one level of stride {self.stride}, the backbone has levels "
                f"of strides {strides}; MODEL.TIMM.OUT_INDICES [3, 4] gives it in most networks"
            )
        self.backbone = backbone
        self.standardize = nn.BatchNorm2d(shape.channels, affine=False, momentum=0.05)
        self.project = nn.Conv2d(shape.channels, width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to (N, width, H // 16, W // 16); the remainder is dropped."""
        height, width = (side - side % self.stride for side in images.shape[-2:])
        features = self.backbone(images[..., :height, :width])[self.level]
        patches: Tensor = self.project(self.standardize(features))
        return patches


def build_patches(cfg: Any, width: int) -> CnnPatches | None:
    """The module for ``MODEL.CLASSIFIER.PATCHES``; None: the transformer's own.

    Raises:
        ValueError: an unknown choice, or published weights for patches that have none.
    """
    node = cfg.MODEL.CLASSIFIER
    if node.PATCHES not in PATCH_EMBEDDINGS:
        raise ValueError(
            f"MODEL.CLASSIFIER.PATCHES is {node.PATCHES!r}, allowed: {PATCH_EMBEDDINGS}"
        )
    if node.PATCHES == "pixels":
        return None
    if node.WEIGHTS:
        raise ValueError(
            f"MODEL.CLASSIFIER.WEIGHTS {node.WEIGHTS!r} are of a plain transformer; with "
            "MODEL.CLASSIFIER.PATCHES cnn leave them empty (MODEL.TIMM.WEIGHTS are the CNN's)"
        )
    return CnnPatches(build_timm_concat_backbone(cfg, ShapeSpec(channels=3)), width)
