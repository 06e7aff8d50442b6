"""SAM's mask decoder for many prompts of one image, with less work and the same result.

The modules (weights) are segment_anything's own. Three things are done differently:

* In the first two-way layer every prompt sees the same image tokens, so their projections are
  computed once for the image (there is no mask prompt).
* Later on an image token x meets a prompt only as ``(W x) . q``, which is ``x . (W^T q)``, and as
  ``sum_i a_i (W x_i)``, which is ``W sum_i a_i x_i``. The few prompt tokens are projected instead
  of the thousands of image tokens.
* Up-scaling by transposed convolutions of stride 2 is a matrix product for each token; the pixels
  are put in order only after the hypernetworks have reduced 32 channels to the masks.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from segment_anything.modeling import MaskDecoder
    from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock

__all__ = ["ImageTokens", "SharedMaskDecoder"]

_CPU_TOKENS = 4096  # image tokens in flight; larger temporaries cost page faults and cache misses


@dataclass(frozen=True)
class ImageTokens:
    """What all prompts of one image share.

    ``keys`` and ``position`` are float (N, C), ``first_*`` projections of the first layer float
    (1, heads, N, c); ``size`` is the (height, width) of the embedding, N its product.
    """

    size: tuple[int, int]
    keys: Tensor
    position: Tensor
    first_keys: Tensor
    first_values: Tensor
    first_queries: Tensor


class SharedMaskDecoder:
    """Decode prompts of one image as ``MaskDecoder.forward`` does, up to rounding.

    Weights are read when the object is made: make it after loading and moving the model.
    """

    def __init__(self, decoder: "MaskDecoder") -> None:
        self._decoder = decoder
        transformer = decoder.transformer
        if len(transformer.layers) != 2:
            raise ValueError(f"expected 2 two-way layers, got {len(transformer.layers)}")
        self._first, self._second = transformer.layers
        self._final_attention = transformer.final_attn_token_to_image
        self._final_norm = transformer.norm_final_attn
        first, norm, _, second, _ = decoder.output_upscaling
        # (in, out, 2, 2) → (in, 4 * out): the four pixels that one token becomes
        self._up_weights = [c.weight.permute(0, 2, 3, 1).flatten(1) for c in (first, second)]
        self._up_biases = [c.bias.repeat(4) for c in (first, second)]
        self._up_norm = norm

    @torch.no_grad()
    def prepare(self, features: Tensor, position: Tensor, dense: Tensor) -> ImageTokens:
        """Compute once what all prompts of an image share.

        Args:
            features: float (1, C, h, w) image embedding.
            position: float (1, C, h, w), ``PromptEncoder.get_dense_pe()``.
            dense: float (1, C), the embedding of "no mask prompt".
        """
        size = (int(features.shape[-2]), int(features.shape[-1]))
        keys = features[0].flatten(1).T + dense
        position = position[0].flatten(1).T.contiguous()
        located = keys + position
        to_image, to_token = (
            self._first.cross_attn_token_to_image,
            self._first.cross_attn_image_to_token,
        )
        heads = to_image.num_heads
        return ImageTokens(
            size=size,
            keys=keys.contiguous(),
            position=position,
            first_keys=_split_heads(to_image.k_proj(located)[None], heads),
            first_values=_split_heads(to_image.v_proj(keys)[None], heads),
            first_queries=_split_heads(to_token.q_proj(located)[None], heads),
        )

    @torch.no_grad()
    def decode(
        self, image: ImageTokens, sparse: Tensor, *, multimask: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return mask logits and predicted IoU of P prompts with T tokens each.

        Args:
            image: from `prepare`.
            sparse: float (P, T, C) prompt tokens, ``PromptEncoder.forward(...)[0]``.
            multimask: three masks, else the single one.

        Returns:
            float (P, M, 4h, 4w) logits and float (P, M) predicted IoU, M = 3 or 1.
        """
        step = max(1, len(sparse))
        if sparse.device.type == "cpu":
            step = max(1, _CPU_TOKENS // len(image.keys))
        masks = range(1, self._decoder.num_mask_tokens) if multimask else range(1)
        height, width = image.size
        logits = sparse.new_empty((len(sparse), len(masks), 4 * height, 4 * width))
        quality = sparse.new_empty((len(sparse), len(masks)))
        for start in range(0, len(sparse), step):
            part = slice(start, start + step)
            logits[part], quality[part] = self._decode_part(image, sparse[part], masks)
        return logits, quality

    def _decode_part(
        self, image: ImageTokens, sparse: Tensor, masks: range
    ) -> tuple[Tensor, Tensor]:
        decoder = self._decoder
        output = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        prompt = torch.cat([output.expand(len(sparse), -1, -1), sparse], dim=1)
        tokens, keys = self._first_layer(image, prompt)
        tokens, keys = self._second_layer(image, tokens, keys, prompt)
        tokens = tokens + _tokens_to_image(
            self._final_attention, tokens + prompt, keys + image.position, keys
        )
        tokens = self._final_norm(tokens)
        quality = decoder.iou_prediction_head(tokens[:, 0])[:, masks.start : masks.stop]
        weights = [decoder.output_hypernetworks_mlps[m](tokens[:, 1 + m]) for m in masks]
        return self._upscale(keys, torch.stack(weights, dim=1), image.size), quality

    def _first_layer(self, image: ImageTokens, prompt: Tensor) -> tuple[Tensor, Tensor]:
        layer: TwoWayAttentionBlock = self._first
        count, length, _ = prompt.shape
        heads = layer.self_attn.num_heads
        tokens = layer.norm1(_self_attention(layer.self_attn, prompt, prompt))

        attention = layer.cross_attn_token_to_image
        queries = _split_heads(attention.q_proj(tokens + prompt).flatten(0, 1)[None], heads)
        found = F.scaled_dot_product_attention(queries, image.first_keys, image.first_values)
        found = found[0].transpose(0, 1).reshape(count, length, -1)
        tokens = layer.norm2(tokens + attention.out_proj(found))
        tokens = layer.norm3(tokens + layer.mlp(tokens))

        attention = layer.cross_attn_image_to_token
        token_keys = _split_heads(attention.k_proj(tokens + prompt).flatten(0, 1)[None], heads)
        scale = token_keys.shape[-1] ** -0.5
        scores = (token_keys[0] * scale) @ image.first_queries[0].transpose(1, 2)
        scores = scores.view(heads, count, length, -1).transpose(0, 1)
        shares = scores.softmax(dim=2).reshape(count, heads * length, -1)
        keys = image.keys.expand(count, -1, -1)
        return tokens, _update_image(layer, keys, shares, _folded_values(attention, tokens))

    def _second_layer(
        self, image: ImageTokens, tokens: Tensor, keys: Tensor, prompt: Tensor
    ) -> tuple[Tensor, Tensor]:
        layer: TwoWayAttentionBlock = self._second
        located = keys + image.position
        tokens = layer.norm1(tokens + _self_attention(layer.self_attn, tokens + prompt, tokens))
        tokens = layer.norm2(
            tokens
            + _tokens_to_image(layer.cross_attn_token_to_image, tokens + prompt, located, keys)
        )
        tokens = layer.norm3(tokens + layer.mlp(tokens))

        attention = layer.cross_attn_image_to_token
        heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
        token_keys = attention.k_proj(tokens + prompt).unflatten(-1, (heads, width)) * width**-0.5
        weight = attention.q_proj.weight.view(heads, width, -1)
        folded = torch.einsum("pthc,hcd->phtd", token_keys, weight).flatten(1, 2)
        bias = torch.einsum("pthc,hc->pht", token_keys, attention.q_proj.bias.view(heads, width))
        scores = torch.baddbmm(bias.flatten(1)[..., None], folded, located.transpose(1, 2))
        shares = scores.unflatten(1, (heads, -1)).softmax(dim=2).flatten(1, 2)
        return tokens, _update_image(layer, keys, shares, _folded_values(attention, tokens))

    def _upscale(self, keys: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
        """(P, N, C) image tokens and (P, M, 32) mask weights → (P, M, 4h, 4w) logits."""
        count, height, width = len(keys), *size
        norm = self._up_norm
        pixels = torch.addmm(self._up_biases[0], keys.flatten(0, 1), self._up_weights[0])
        pixels = pixels.view(-1, len(norm.weight))
        pixels = F.gelu(F.layer_norm(pixels, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        pixels = F.gelu(torch.addmm(self._up_biases[1], pixels, self._up_weights[1]))
        pixels = pixels.view(count, -1, weights.shape[-1])
        masks = torch.bmm(weights, pixels.transpose(1, 2))
        # token (y, x) became 2 x 2 pixels (a, b), each of them 2 x 2 pixels (c, d)
        masks = masks.view(count, -1, height, width, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return masks.reshape(count, -1, 4 * height, 4 * width)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, heads * c) → (B, heads, n, c)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _self_attention(attention: "Attention", located: Tensor, values: Tensor) -> Tensor:
    heads = attention.num_heads
    found = F.scaled_dot_product_attention(
        _split_heads(attention.q_proj(located), heads),
        _split_heads(attention.k_proj(located), heads),
        _split_heads(attention.v_proj(values), heads),
    )
    result: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
    return result


def _tokens_to_image(
    attention: "Attention", tokens: Tensor, located: Tensor, keys: Tensor
) -> Tensor:
    """Attention of (P, T, C) tokens to (P, N, C) image tokens without projecting the latter."""
    heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
    queries = attention.q_proj(tokens).unflatten(-1, (heads, width)) * width**-0.5
    # The bias of k_proj adds the same to every image token's score: softmax does not see it.
    key_weight = attention.k_proj.weight.view(heads, width, -1)
    folded = torch.einsum("pthc,hcd->phtd", queries, key_weight).flatten(1, 2)
    shares = torch.bmm(folded, located.transpose(1, 2)).softmax(dim=-1)
    pooled = torch.bmm(shares, keys).unflatten(1, (heads, -1))
    value_weight = attention.v_proj.weight.view(heads, width, -1)
    found = torch.einsum("phtd,hcd->pthc", pooled, value_weight).flatten(2)
    result: Tensor = attention.out_proj(found + attention.v_proj.bias)  # shares sum to one
    return result


def _folded_values(attention: "Attention", tokens: Tensor) -> Tensor:
    """Values of (P, T, C) tokens, already through out_proj: (P, heads * T, C)."""
    heads, width = attention.num_heads, attention.internal_dim // attention.num_heads
    values = attention.v_proj(tokens).unflatten(-1, (heads, width))
    weight = attention.out_proj.weight.view(-1, heads, width)
    folded = torch.einsum("pthc,dhc->phtd", values, weight)
    return (folded + attention.out_proj.bias / heads).flatten(1, 2)  # one share for each head


def _update_image(
    layer: "TwoWayAttentionBlock", keys: Tensor, shares: Tensor, values: Tensor
) -> Tensor:
    updated: Tensor = layer.norm4(torch.baddbmm(keys, shares.transpose(1, 2), values))
    return updated
