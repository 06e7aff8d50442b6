"""A tiny backbone and a network whose maps can be computed by hand."""

from collections.abc import Sequence

import pytest
import torch
from detectron2.modeling import Backbone
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.cams import CNN, CamNetwork, ImageClassifier, ViewMaps


class PatchMean(Backbone):
    """Feature map: the mean color of each 16 x 16 patch; takes multiples of 32."""

    size_divisibility = 32

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["patches"]
        self._out_feature_strides = {"patches": 16}
        self._out_feature_channels = {"patches": 3}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        assert images.shape[-1] % 32 == 0 and images.shape[-2] % 32 == 0
        return {"patches": F.avg_pool2d(images, 16)}


class Channels(CamNetwork):
    """Class c is the brightness of channel c: logit its mean over the view, map its patches."""

    def class_logits(
        self, images: Tensor, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        return [images.mean(dim=(2, 3))]

    def maps(self, image: Tensor, classes: Tensor) -> ViewMaps:
        return ViewMaps(coarse=F.avg_pool2d(image[None], 16)[0][classes].clamp(min=0))


@pytest.fixture
def patch_mean() -> type[Backbone]:
    return PatchMean


@pytest.fixture
def cnn() -> CNN:
    torch.manual_seed(0)
    return CNN(backbone=PatchMean(), num_classes=4).eval()


def make_classifier(network: CamNetwork, num_classes: int) -> ImageClassifier:
    return ImageClassifier(
        network=network,
        num_classes=num_classes,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[255.0, 255.0, 255.0],
    )


@pytest.fixture
def cnn_classifier(cnn: CNN) -> ImageClassifier:
    return make_classifier(cnn, 4)


@pytest.fixture
def channels_classifier() -> ImageClassifier:
    return make_classifier(Channels(), 3)
