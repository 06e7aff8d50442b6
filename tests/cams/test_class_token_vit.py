"""Class tokens through a timm network: read-out, positions, sizes, and what is refused."""

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from weaksam_d2.cams.class_token_vit import BlockAttention, ClassTokenViT, build_vit
from weaksam_d2.ops.class_tokens import class_attention


def test_attention_read_from_queries_and_keys_is_the_one_that_is_used(
    tiny_vit: Any, slow_attention: Any
) -> None:
    vit, image = tiny_vit(), torch.randn(3, 48, 80)
    seen: list[BlockAttention] = []
    tokens = vit.tokens(image[None], seen.append)
    slow = slow_attention(vit, image)
    assert tokens.shape == (1, 4 + 3 * 5, 24) and len(seen) == vit.depth
    assert torch.allclose(tokens[0], slow.tokens, atol=1e-4)
    for block, whole, branch, output in zip(
        seen, slow.maps, slow.branches, slow.outputs, strict=True
    ):
        attention = (block.query @ block.key.transpose(-2, -1)).softmax(dim=-1)[0]
        assert torch.allclose(attention, whole, atol=1e-5)
        assert torch.allclose(attention.sum(dim=-1), torch.ones(()), atol=1e-5)
        assert torch.allclose(block.branch[0], branch, atol=1e-4)
        assert torch.allclose(block.output[0], output, atol=1e-4)
        assert not block.query.requires_grad and not block.branch.requires_grad
        rows = class_attention(block.query, block.key, torch.tensor([2]), 4)
        assert torch.allclose(rows[0, :, 0], whole[:, 2, 4:], atol=1e-5)


def test_attention_that_passes_unseen_is_an_error(tiny_vit: Any) -> None:
    vit = tiny_vit()
    attention = vit.blocks[1].attn
    qkv = attention.qkv
    attention.qkv = torch.nn.Module()  # called through its weights from now on
    attention.forward = lambda x, **_: F.linear(x, qkv.weight, qkv.bias)[..., :24]
    with pytest.raises(RuntimeError, match="seen 0 times at its projection and 1 times"):
        vit.tokens(torch.randn(1, 3, 32, 32), lambda seen: None)
    vit.tokens(torch.randn(1, 3, 32, 32))  # nobody looks


def test_the_remainder_of_an_image_is_dropped(tiny_vit: Any) -> None:
    vit, image = tiny_vit(pos_interp="scale"), torch.randn(1, 3, 47, 65)
    assert vit.grid(image) == (2, 4)
    whole = vit.tokens(image)
    assert torch.allclose(whole, vit.tokens(image[..., :32, :64]), atol=1e-5)
    assert vit.tokens(torch.randn(1, 3, 16, 16)).shape == (1, 5, 24)
    with pytest.raises(ValueError, match="15 x 40 pixels .* has no whole patch of 16"):
        vit.tokens(torch.randn(1, 3, 15, 40))


def test_positions_of_a_square_grid_are_used_as_they_are(tiny_vit: Any) -> None:
    vit = tiny_vit(pos_interp="scale")
    assert torch.equal(vit._positions((2, 2), square_image=True), vit.pos_embed)
    assert not torch.allclose(vit._positions((2, 2), square_image=False), vit.pos_embed)
    other = vit._positions((3, 2), square_image=False)
    assert other.shape == (1, 4 + 6, 24)
    assert torch.equal(other[:, :4], vit.pos_embed[:, :4])


def test_the_final_norm_is_neither_applied_nor_trained(tiny_vit: Any) -> None:
    vit, image = tiny_vit(), torch.randn(1, 3, 32, 32)
    before = vit.tokens(image)
    with torch.no_grad():
        vit.norm.weight.fill_(7.0)
    assert torch.equal(vit.tokens(image), before)
    assert [name for name, p in vit.named_parameters() if not p.requires_grad] == [
        "norm.weight",
        "norm.bias",
    ]


def test_logits_are_means_of_class_tokens_and_scores_a_convolution(tiny_vit: Any) -> None:
    vit = tiny_vit()
    tokens = vit.tokens(torch.randn(1, 3, 32, 48))
    assert torch.allclose(vit.token_logits(tokens)[0, 3], tokens[0, 3].mean())
    plane = tokens[0, 4:].T.reshape(24, 2, 3)
    expected = F.conv2d(plane[None], vit.head.weight, vit.head.bias, padding=1)
    assert torch.allclose(vit.patch_scores(tokens, (2, 3)), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_vit("deit_smal"), "'deit_smal', which is not a model of timm"),
        (lambda: build_vit("test_efficientnet"), "EfficientNet cannot take class tokens"),
        (lambda: build_vit("deit_tiny_distilled_patch16_224"), "one class token"),
        (
            lambda: ClassTokenViT(
                vit=VisionTransformer(32, 8, embed_dim=24, depth=1, num_heads=2), num_channels=2
            ),
            "patches of 16 pixels",
        ),
        (
            lambda: ClassTokenViT(
                vit=VisionTransformer(32, embed_dim=24, depth=1, num_heads=2, qk_norm=True),
                num_channels=2,
            ),
            "plain attention",
        ),
        (
            lambda: ClassTokenViT(vit=build_vit("test_vit"), num_channels=2, pos_interp="nearest"),  # type: ignore[arg-type]
            "POS_INTERP is 'nearest'",
        ),
    ],
)
def test_networks_of_another_kind_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("channels", [20, 90])
def test_names_and_shapes_of_deit_small_are_the_published_ones(channels: int) -> None:
    with torch.device("meta"):
        vit = ClassTokenViT(vit=build_vit("deit_small_patch16_224"), num_channels=channels)
    shapes = {name: tuple(value.shape) for name, value in vit.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "cls_token": (1, channels, 384),
        "pos_embed": (1, channels + 196, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
        "head.weight": (channels, 384, 3, 3),
        "head.bias": (channels,),
        "norm.weight": (384,),
        "norm.bias": (384,),
    }
    for i in range(12):
        for name, shape in (
            ("norm1", (384,)),
            ("norm2", (384,)),
            ("attn.qkv", (1152, 384)),
            ("attn.proj", (384, 384)),
            ("mlp.fc1", (1536, 384)),
            ("mlp.fc2", (384, 1536)),
        ):
            expected[f"blocks.{i}.{name}.weight"] = shape
            expected[f"blocks.{i}.{name}.bias"] = shape[:1]
    assert shapes == expected
    assert vit.heads == 6 and vit.blocks[0].norm1.eps == 1e-6
    assert timm.is_model("deit_small_patch16_224")
