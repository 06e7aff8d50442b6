"""A tiny backbone, a network whose maps can be computed by hand, and a tiny CLIP."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import Backbone
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.cams import CNN, CamNetwork, ImageClassifier, ViewMaps
from weaksam_d2.cams.class_token_vit import ClassTokenViT


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


# The first pairs that the tokenizer of the tiny CLIP joins, in the format of OpenAI's list.
CLIP_MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "o r", "or i", "ori g", "a m", "am i</w>"]


def make_clip_model() -> torch.nn.Module:
    """A random CLIP for 64 x 64 images: 3 and 2 blocks, two heads and one, 4 x 4 patches."""
    import transformers

    size = len(CLIP_MERGES) + 2 * 256 + 2
    config = transformers.CLIPConfig(
        vision_config={
            **{"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 3},
            **{"intermediate_size": 96, "image_size": 64, "patch_size": 16, "projection_dim": 24},
        },
        text_config={
            **{"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2},
            **{"intermediate_size": 48, "vocab_size": size, "projection_dim": 24},
            **{"bos_token_id": size - 2, "eos_token_id": size - 1},
        },
        projection_dim=24,
        attn_implementation="eager",
    )
    generator = torch.Generator().manual_seed(7)
    model = transformers.CLIPModel(config).eval()
    for name, weight in model.named_parameters():
        # Large enough for attention and scores that differ from place to place.
        noise = (
            torch.randn(weight.shape, generator=generator)
            * 1.5
            / max(weight.shape, default=1) ** 0.5
        )
        weight.data = 1 + 0.2 * noise if "norm" in name and "weight" in name else noise
    model.logit_scale.data = torch.tensor(2.0)
    return model


@pytest.fixture(scope="session")
def clip_vocabulary_bytes() -> bytes:
    """OpenAI's list of byte pairs for the tiny CLIP, and pairs that it has no room for."""
    lines = ["#version: 0.2", *CLIP_MERGES, "x y", "xy z", ""]
    return gzip.compress("\n".join(lines).encode("utf-8"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory, clip_vocabulary_bytes: bytes) -> Path:
    """The tiny CLIP in the format of transformers."""
    from weaksam_d2.cams.clip_vocabulary import read_vocabulary

    folder = tmp_path_factory.mktemp("clip")
    (folder / "list.gz").write_bytes(clip_vocabulary_bytes)
    tokens, merges = read_vocabulary(folder / "list.gz", len(CLIP_MERGES) + 2 * 256 + 2)
    (folder / "list.gz").unlink()
    ids = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(ids))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    make_clip_model().save_pretrained(folder)
    return folder


def make_tiny_vit(channels: int = 4, side: int = 32, **options: Any) -> ClassTokenViT:
    """Three blocks of two heads; positions for a grid of side / 16."""
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=side, num_classes=0, embed_dim=24, depth=3, num_heads=2)
    made = ClassTokenViT(vit=vit, num_channels=channels, **options)
    for parameter in made.parameters():  # attention far from uniform
        torch.nn.init.normal_(parameter, std=0.3)
    return made


class SlowAttention:
    """Whole attention maps and branch outputs of every block, by timm's unfused code."""

    def __init__(self, vit: ClassTokenViT, image: Tensor) -> None:
        self.maps: list[Tensor] = []  # (heads, T, T)
        self.branches: list[Tensor] = []
        self.outputs: list[Tensor] = []
        hooks = []
        for block in vit.blocks:
            block.attn.fused_attn = False
            hooks += [
                block.attn.attn_drop.register_forward_hook(self._add(self.maps)),
                block.attn.register_forward_hook(self._add(self.branches)),
                block.register_forward_hook(self._add(self.outputs)),
            ]
        with torch.no_grad():
            self.tokens = vit.tokens(image[None])[0]
        for hook in hooks:
            hook.remove()
        for block in vit.blocks:
            block.attn.fused_attn = True
        assert len(self.maps) == vit.depth

    @staticmethod
    def _add(kept: list[Tensor]) -> Any:
        return lambda module, given, result: kept.append(result[0].detach())


@pytest.fixture
def tiny_vit() -> Callable[..., ClassTokenViT]:
    return make_tiny_vit


@pytest.fixture
def slow_attention() -> type[SlowAttention]:
    return SlowAttention
