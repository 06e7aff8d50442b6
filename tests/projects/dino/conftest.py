"""Tiny models of DINO."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn
from weaksam_d2.projects.dino.denoising import Denoising, make_denoising
from weaksam_d2.projects.dino.network import DINONetwork, NetworkSettings
from weaksam_d2.projects.dino.outputs import ImageTargets


class PatchBackbone(Backbone):
    """Maps whose cells see their own pixels only, so that padding changes none of them."""

    def __init__(self, channels: dict[int, int]) -> None:
        super().__init__()
        self.patches = nn.ModuleDict(
            {
                f"s{stride}": nn.Conv2d(3, width, stride, stride)
                for stride, width in channels.items()
            }
        )
        self._out_features = list(self.patches)

    @property
    def size_divisibility(self) -> int:
        return 16

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {name: patch(images).tanh() for name, patch in self.patches.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=patch.out_channels, stride=patch.stride[0])
            for name, patch in self.patches.items()
        }


SIZES: dict[str, Any] = {
    "num_classes": 3,
    "in_features": ("s8", "s16"),
    "num_levels": 3,
    "hidden_dim": 32,
    "ffn_dim": 24,
    "num_heads": 4,
    "num_points": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_queries": 10,
}


def randomize(model: nn.Module) -> None:
    """No parameter at 0 or 1, sampling points within a few cells."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


@pytest.fixture
def make_backbone() -> Callable[..., Backbone]:
    return lambda **channels: PatchBackbone(
        {int(name[1:]): width for name, width in (channels or {"s8": 5, "s16": 7}).items()}
    )


@pytest.fixture
def make_settings() -> Callable[..., NetworkSettings]:
    return lambda **changes: NetworkSettings(**{**SIZES, **changes})


@pytest.fixture
def make_network(
    make_backbone: Callable[..., Backbone], make_settings: Callable[..., NetworkSettings]
) -> Callable[..., DINONetwork]:
    """A randomized network in evaluation mode; changes are settings."""
    pytest.importorskip("transformers")

    def make(backbone: Backbone | None = None, **changes: Any) -> DINONetwork:
        torch.manual_seed(0)
        network = DINONetwork(
            backbone=backbone or make_backbone(), settings=make_settings(**changes)
        )
        randomize(network)
        return network.eval()

    return make


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Batches of random images of some sizes, padded with zeros."""

    def make(*sizes: tuple[int, int], padded: tuple[int, int]) -> Tensor:
        torch.manual_seed(1)
        batch = torch.zeros(len(sizes), 3, *padded)
        for one, (height, width) in zip(batch, sizes, strict=True):
            one[:, :height, :width] = torch.randn(3, height, width)
        return batch

    return make


@pytest.fixture
def noised_queries() -> Denoising:
    """Denoising queries of two images with two objects and one."""
    first = [[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.5, 0.3]]
    targets = [
        ImageTargets(torch.tensor([2, 0]), torch.tensor(first)),
        ImageTargets(torch.tensor([1]), torch.tensor([[0.7, 0.4, 0.3, 0.3]])),
    ]
    noised = make_denoising(
        targets, num_classes=3, number=4, label_noise=0.5, box_noise=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert noised is not None
    return noised
