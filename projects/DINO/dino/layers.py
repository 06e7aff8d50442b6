"""Deformable attention layers: the one module of this project that imports transformers."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .pyramid import Pyramid

_REMEDY = (
    "DINO takes its attention layers from transformers 5; get it with "
    "python -m pip install 'transformers>=5' (extra hf)"
)
try:
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr.modeling_deformable_detr import (
        DeformableDetrDecoderLayer,
        DeformableDetrEncoderLayer,
        DeformableDetrMultiscaleDeformableAttention,
    )
except ImportError as error:
    raise ImportError(_REMEDY) from error

__all__ = ["LayerSettings", "decode", "encode", "make_decoder_layer", "make_encoder_layer"]


# Version 4 has the same classes with other arguments and other names of parameters.
_ARGUMENTS = inspect.signature(DeformableDetrEncoderLayer.forward).parameters
if "spatial_position_embeddings" not in _ARGUMENTS:
    raise ImportError(_REMEDY)


@dataclass(frozen=True)
class LayerSettings:
    """Sizes of a layer: channels, feed-forward units, heads, points for each head and level."""

    width: int
    ffn: int
    heads: int
    points: int
    levels: int
    dropout: float = 0.0


def make_encoder_layer(settings: LayerSettings) -> nn.Module:
    """Self-attention over the tokens of all levels, then a feed-forward network; norms after."""
    return _initialized(DeformableDetrEncoderLayer(_config(settings)))


def make_decoder_layer(settings: LayerSettings) -> nn.Module:
    """Self-attention of the queries, attention to the tokens, a feed-forward network."""
    return _initialized(DeformableDetrDecoderLayer(_config(settings)))


def encode(layer: nn.Module, tokens: Tensor, positions: Tensor, pyramid: Pyramid) -> Tensor:
    """Tokens (N, S, D) after an encoder layer; ``positions`` (N, S, D) are added to the queries."""
    encoded: Tensor = layer(
        tokens,
        attention_mask=pyramid.valid,
        spatial_position_embeddings=positions,
        reference_points=pyramid.centers[:, :, None] * pyramid.ratios[:, None],
        **_shapes(pyramid),
    )
    return encoded


def decode(
    layer: nn.Module,
    states: Tensor,
    positions: Tensor,
    references: Tensor,
    memory: Tensor,
    pyramid: Pyramid,
    attention: Tensor | None,
) -> Tensor:
    """Queries (N, Q, D) after a decoder layer.

    references: (N, Q, 4) center x, center y, width, height in units of the unpadded image.
    attention: bool (Q, Q), row i says which queries i sees; None: all.
    """
    ratios = pyramid.ratios.repeat(1, 1, 2)  # x, y, x, y
    decoded: Tensor = layer(
        states,
        object_queries_position_embeddings=positions,
        reference_points=references[:, :, None] * ratios[:, None],
        encoder_hidden_states=memory,
        encoder_attention_mask=pyramid.valid,
        # Only the self-attention takes this one; boolean, since autocast changes no boolean.
        attention_mask=None if attention is None else attention[None, None],
        **_shapes(pyramid),
    )
    return decoded


def _shapes(pyramid: Pyramid) -> dict[str, Any]:
    """The sizes of the levels, in both of the forms that the layers want."""
    return {
        "spatial_shapes": pyramid.sizes,
        "spatial_shapes_list": list(pyramid.shapes),
        "level_start_index": pyramid.starts,
    }


def _config(settings: LayerSettings) -> Any:
    config = DeformableDetrConfig(
        d_model=settings.width,
        encoder_ffn_dim=settings.ffn,
        decoder_ffn_dim=settings.ffn,
        encoder_attention_heads=settings.heads,
        decoder_attention_heads=settings.heads,
        encoder_n_points=settings.points,
        decoder_n_points=settings.points,
        num_feature_levels=settings.levels,
        dropout=settings.dropout,
        attention_dropout=settings.dropout,
        activation_dropout=settings.dropout,
        activation_function="relu",
    )
    config._attn_implementation = "sdpa"  # None, and an error in the first forward, otherwise
    return config


def _initialized(layer: nn.Module) -> nn.Module:
    """Xavier for every matrix; attention that starts as a mean over a ring of points.

    Source: Deformable DETR, Sec. 4.1 and appendix A.4. A head looks in its own direction, the
    k-th point k cells away.
    """
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    for module in layer.modules():
        if isinstance(module, DeformableDetrMultiscaleDeformableAttention):
            _reset_attention(module)
    return layer


@torch.no_grad()
def _reset_attention(attention: Any) -> None:
    heads, levels, points = attention.n_heads, attention.n_levels, attention.n_points
    angles = torch.arange(heads) * (2 * math.pi / heads)
    ring = torch.stack([angles.cos(), angles.sin()], dim=-1)
    ring = ring / ring.abs().amax(dim=-1, keepdim=True)  # on the border of a square
    steps = torch.arange(1, points + 1)
    offsets = ring[:, None, None] * steps[:, None]
    attention.sampling_offsets.bias.copy_(offsets.expand(heads, levels, points, 2).reshape(-1))
    for zero in (attention.sampling_offsets.weight, attention.attention_weights.weight):
        zero.zero_()
    for linear in (attention.attention_weights, attention.value_proj, attention.output_proj):
        linear.bias.zero_()
