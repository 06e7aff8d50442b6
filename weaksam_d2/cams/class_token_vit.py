"""A vision transformer with one class token for each class (wsss.md, Sec. 3.2)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from weaksam_d2.ops.class_tokens import resize_positions, split_query_key

__all__ = ["BlockAttention", "ClassTokenViT", "build_vit"]

PATCH = 16  # pixels
_INTERP = ("size", "scale")


class BlockAttention(NamedTuple):
    """What one block shows of a batch, detached and in float32.

    ``query`` (scaled) and ``key`` are (N, heads, T, d); ``branch``, the output of the attention
    before it is added, and ``output``, that of the whole block, are (N, T, D).
    """

    query: Tensor
    key: Tensor
    branch: Tensor
    output: Tensor


class ClassTokenViT(nn.Module):
    """Class tokens and patches through the blocks of a timm network, with attention read-out.

    The final norm is part of the published weights and is not applied; it does not train. The
    parameters have the names of the published checkpoints.
    """

    def __init__(
        self,
        *,
        vit: VisionTransformer,
        num_channels: int,
        pos_interp: Literal["size", "scale"] = "size",
        head: bool = True,
        separate_positions: bool = False,
        patches: nn.Module | None = None,
    ) -> None:
        """Take patch embedding and blocks of a timm network.

        Args:
            vit: ViT or DeiT with patches of 16 pixels.
            num_channels: number of class tokens, C.
            pos_interp: how positions are resized to another grid, see ``resize_positions``.
            head: there is a 3 x 3 convolution from patches to classes.
            separate_positions: classes and patches have a table each (MCTformer+).
            patches: (N, 3, H, W) to (N, D, H // 16, W // 16), in place of the network's own.

        Raises:
            ValueError: a network of another kind, or a choice that does not exist.
        """
        super().__init__()
        _checked_vit(vit)
        if pos_interp not in _INTERP:
            raise ValueError(f"MODEL.CLASSIFIER.POS_INTERP is {pos_interp!r}, allowed: {_INTERP}")
        self.num_channels = num_channels
        self.pos_interp: Literal["size", "scale"] = pos_interp
        self.separate_positions = separate_positions
        width, count = vit.embed_dim, vit.patch_embed.num_patches
        self.cls_token = _drawn(1, num_channels, width)
        if separate_positions:
            self.pos_embed_cls = _drawn(1, num_channels, width)
            self.pos_embed_pat = _drawn(1, count, width)
        else:
            self.pos_embed = _drawn(1, num_channels + count, width)
        if patches is not None:
            vit.patch_embed.add_module("proj", patches)
        self.patch_embed, self.blocks, self.norm = vit.patch_embed, vit.blocks, vit.norm
        # Without a gradient it must not take part: processes would wait for it.
        self.norm.requires_grad_(False)
        self.head = nn.Conv2d(width, num_channels, 3, padding=1) if head else None

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        first: Any = self.blocks[0]
        return int(first.attn.num_heads)

    @property
    def width(self) -> int:
        """Channels of a token, D."""
        return int(self.cls_token.shape[-1])

    def grid(self, images: Tensor) -> tuple[int, int]:
        """(rows, columns) of whole patches in images (..., H, W).

        Raises:
            ValueError: a side of less than one patch.
        """
        height, width = images.shape[-2:]
        if min(height, width) < PATCH:
            raise ValueError(
                f"a view of {height} x {width} pixels (height x width) has no whole patch of "
                f"{PATCH}; use larger images, or WEAKSAM.CAMS.RESIZE round16"
            )
        return height // PATCH, width // PATCH

    def tokens(
        self, images: Tensor, observe: Callable[[BlockAttention], None] | None = None
    ) -> Tensor:
        """Tokens after the last block, (N, C + patches, D), of images (N, 3, H, W).

        What is left over of the right and bottom side after whole patches of 16 pixels is
        dropped. observe is called with each block's attention, in order.

        Raises:
            ValueError: see :meth:`grid`. RuntimeError: a block's attention was not seen.
        """
        grid = self.grid(images)
        patches = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        classes = self.cls_token.expand(len(images), -1, -1)
        positions = self._positions(grid, square_image=images.shape[-1] == images.shape[-2])
        tokens = torch.cat([classes, patches], dim=1) + positions
        blocks: Any = self.blocks
        for block in blocks:
            if observe is None:
                tokens = block(tokens)
                continue
            with _watched(block.attn) as seen:
                tokens = block(tokens)
            query, key = split_query_key(seen.qkv, self.heads, block.attn.scale)
            observe(BlockAttention(query, key, seen.branch.float(), tokens.detach().float()))
        return tokens

    def token_logits(self, tokens: Tensor) -> Tensor:
        """Class logits (N, C): the mean over the channels of each class token."""
        return tokens[:, : self.num_channels].mean(dim=-1)

    def patch_scores(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Scores Z (N, C, h, w) of the patches by the convolutional head."""
        assert self.head is not None
        plane = tokens[:, self.num_channels :].transpose(1, 2).unflatten(2, grid)
        scores: Tensor = self.head(plane)
        return scores

    def _positions(self, grid: tuple[int, int], *, square_image: bool) -> Tensor:
        classes: Tensor
        patches: Tensor
        if self.separate_positions:
            classes, patches = self.pos_embed_cls, self.pos_embed_pat
        else:
            classes, patches = self.pos_embed.tensor_split([self.num_channels], dim=1)
        resized = resize_positions(patches, grid, interp=self.pos_interp, square_image=square_image)
        return torch.cat([classes, resized], dim=1)


def build_vit(
    name: str, *, drop_path: float = 0.0, image_size: int = 0, depth: int = 0
) -> VisionTransformer:
    """A timm vision transformer with random weights and no head.

    image_size: side in pixels that the position table is for; 0: timm's own (224 mostly).
    depth: number of blocks; 0: timm's own.

    Raises:
        ValueError: timm has no such model, or it is no vision transformer.
    """
    if not name or not timm.is_model(name):
        raise ValueError(f"MODEL.CLASSIFIER.VIT is {name!r}, which is not a model of timm")
    sizes: dict[str, Any] = {"img_size": image_size} if image_size else {}
    if depth:
        sizes["depth"] = depth
    vit = timm.create_model(
        name, pretrained=False, num_classes=0, drop_path_rate=drop_path, **sizes
    )
    return _checked_vit(vit)


def _drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _checked_vit(vit: nn.Module) -> VisionTransformer:
    if isinstance(vit, VisionTransformer) and vit.num_prefix_tokens == 1:
        patches: Any = vit.patch_embed
        blocks: Any = vit.blocks
        # With normalized queries and keys the projection alone would not give the attention.
        plain = all(isinstance(block.attn.q_norm, nn.Identity) for block in blocks)
        if plain and patches.patch_size == (PATCH, PATCH):
            return vit
    raise ValueError(
        f"{type(vit).__name__} cannot take class tokens: expected a vision transformer of timm "
        f"with patches of {PATCH} pixels, one class token and plain attention, such as "
        "deit_small_patch16_224 (MODEL.CLASSIFIER.VIT)"
    )


@dataclass
class _Seen:
    qkv: Tensor
    branch: Tensor


@contextmanager
def _watched(attention: Any) -> Iterator[_Seen]:
    """Record what passes through one attention; a pass that cannot be seen is an error.

    Queries and keys are read, not the attention map itself: the fast attention never forms it.
    """
    qkv: list[Tensor] = []
    branch: list[Tensor] = []
    seen = _Seen(torch.empty(0), torch.empty(0))
    hooks = [
        attention.qkv.register_forward_hook(lambda *given: qkv.append(given[2].detach())),
        attention.register_forward_hook(lambda *given: branch.append(given[2].detach())),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
    if (len(qkv), len(branch)) != (1, 1):
        raise RuntimeError(
            f"the attention of a block was seen {len(qkv)} times at its projection and "
            f"{len(branch)} times at its output, expected once each: this version of timm does "
            "not call them as modules"
        )
    seen.qkv, seen.branch = qkv[0], branch[0]
