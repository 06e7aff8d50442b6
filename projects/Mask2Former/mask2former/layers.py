"""The parts that transformers brings; no other module of this project imports it."""

import math
from typing import Any

import torch
from torch import nn

__all__ = ["build_layers"]


def build_layers(
    channels: tuple[int, int, int, int],
    *,
    hidden_dim: int,
    num_heads: int,
    encoder_layers: int,
    encoder_ffn_dim: int,
    decoder_layers: int,
    decoder_ffn_dim: int,
    num_queries: int,
) -> tuple[nn.Module, nn.Module]:
    """Make the pixel decoder and the transformer module, randomly initialized.

    Args:
        channels: of the backbone's maps of stride 4, 8, 16 and 32.
        hidden_dim: of everything after them; a multiple of 32 (group normalization).
        num_heads: of all attention.
        encoder_layers: of the pixel decoder.
        encoder_ffn_dim: hidden units of its layers.
        decoder_layers: with masked attention; each follows on a prediction.
        decoder_ffn_dim: hidden units of its layers.
        num_queries: learned queries.

    Raises:
        ImportError: transformers is not installed. ValueError: ``hidden_dim`` does not fit.

    Source: Mask2Former, Sec. 3; the modules are those of transformers' Mask2Former.
    """
    if hidden_dim % 32 or hidden_dim % num_heads:
        raise ValueError(
            f"MODEL.MASK2FORMER.HIDDEN_DIM is {hidden_dim}; it must be a multiple of 32 and of "
            f"MODEL.MASK2FORMER.NUM_HEADS {num_heads}"
        )
    modeling = _import_modeling()
    config = modeling.Mask2FormerConfig(
        feature_size=hidden_dim,
        mask_feature_size=hidden_dim,
        hidden_dim=hidden_dim,
        num_attention_heads=num_heads,
        encoder_layers=encoder_layers,
        encoder_feedforward_dim=encoder_ffn_dim,
        decoder_layers=decoder_layers + 1,  # counts the prediction before the first layer
        dim_feedforward=decoder_ffn_dim,
        num_queries=num_queries,
        dropout=0.0,
    )
    pixels = modeling.Mask2FormerPixelDecoder(config, feature_channels=channels)
    transformer = modeling.Mask2FormerTransformerModule(hidden_dim, config)
    _initialize_pixel_decoder(pixels)
    _initialize_transformer(transformer)
    return pixels, transformer


def _import_modeling() -> Any:
    try:
        from transformers.models.mask2former import modeling_mask2former
    except ImportError as error:
        raise ImportError(
            "projects/Mask2Former needs the package transformers; run: "
            "python -m pip install 'transformers>=5' (extra hf)"
        ) from error
    return modeling_mask2former


@torch.no_grad()
def _initialize_pixel_decoder(decoder: Any) -> None:
    """Weights drawn as in the official code; what is not named here has PyTorch's defaults."""
    nn.init.normal_(decoder.level_embed)
    for layer in decoder.encoder.layers:
        for linear in (layer.fc1, layer.fc2):
            nn.init.xavier_uniform_(linear.weight)
        attention = layer.self_attn
        for linear in (attention.value_proj, attention.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (attention.sampling_offsets, attention.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        # Each head looks in its own direction, its points at 1, 2, … steps on the unit square.
        angles = torch.arange(attention.n_heads) * (2 * math.pi / attention.n_heads)
        steps = torch.stack([angles.cos(), angles.sin()], dim=-1)
        steps = steps / steps.abs().amax(dim=-1, keepdim=True)
        lengths = torch.arange(1, attention.n_points + 1)[:, None]
        offsets = (steps[:, None, None] * lengths).expand(-1, attention.n_levels, -1, -1)
        attention.sampling_offsets.bias.copy_(offsets.flatten())
    for projection in decoder.input_projections:
        nn.init.xavier_uniform_(projection[0].weight)
        nn.init.zeros_(projection[0].bias)
    for convolution in (decoder.adapter_1[0], decoder.layer_1[0], decoder.mask_projection):
        nn.init.kaiming_uniform_(convolution.weight, a=1)
    nn.init.zeros_(decoder.mask_projection.bias)


@torch.no_grad()
def _initialize_transformer(transformer: Any) -> None:
    """As :func:`_initialize_pixel_decoder`; embeddings and the mask head have the defaults."""
    for layer in transformer.decoder.layers:
        own = layer.self_attn
        for linear in (layer.fc1, layer.fc2, own.out_proj, layer.cross_attn.out_proj):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.xavier_uniform_(layer.cross_attn.in_proj_weight)
        for linear in (own.q_proj, own.k_proj, own.v_proj):
            # There they are thirds of one matrix, which has more rows.
            nn.init.xavier_uniform_(linear.weight, gain=math.sqrt(0.5))
        for linear in (own.q_proj, own.k_proj, own.v_proj, own.out_proj):
            nn.init.zeros_(linear.bias)
