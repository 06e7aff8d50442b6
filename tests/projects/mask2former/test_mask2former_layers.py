"""The modules of transformers: that they are there, and what they compute."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from weaksam_d2.projects.mask2former.layers import build_layers
from weaksam_d2.projects.mask2former.pixel_decoder import PixelDecoder
from weaksam_d2.projects.mask2former.transformer_decoder import TransformerDecoder

from weaksam_d2.projects import mask2former as package

CHANNELS = (4, 6, 8, 10)
NAMES = ("res2", "res3", "res4", "res5")
SMALL = {
    "hidden_dim": 32,
    "num_heads": 4,
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_ffn_dim": 16,
    "num_queries": 5,
}


@pytest.fixture(scope="module")
def parts() -> tuple[PixelDecoder, TransformerDecoder]:
    torch.manual_seed(0)
    pixels, transformer = build_layers(CHANNELS, **SMALL)
    decoder = TransformerDecoder(transformer, hidden_dim=32, num_classes=3)
    for module in (pixels, decoder):  # attention that depends on what it sees
        for name, value in module.named_parameters():
            if "sampling_offsets" in name or "attention_weights" in name or "level" in name:
                nn.init.normal_(value, std=0.3)
    return PixelDecoder(pixels, NAMES).eval(), decoder.eval()


def features(images: int = 1, *, height: int = 64, width: int = 96, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(images, channels, height // s, width // s, generator=generator)
        for name, channels, s in zip(NAMES, CHANNELS, (4, 8, 16, 32), strict=True)
    }


def test_the_contract_with_transformers_holds() -> None:
    pixels, transformer = build_layers(CHANNELS, **SMALL)
    shapes = {
        "level_embed": (3, 32),
        "encoder.layers.0.self_attn.sampling_offsets.weight": (4 * 3 * 4 * 2, 32),
        "adapter_1.0.weight": (32, 4, 1, 1),
        "input_projections.2.0.weight": (32, 6, 1, 1),
    }
    state = pixels.state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert all(value.isfinite().all() for value in state.values())
    shapes = {
        "queries_features.weight": (5, 32),
        "decoder.layers.1.cross_attn.in_proj_weight": (96, 32),
        "decoder.mask_predictor.mask_embedder.2.0.weight": (32, 32),
    }
    state = transformer.state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert "decoder.layers.2.fc1.weight" not in state and not transformer.decoder.layers[0].pre_norm


def test_random_weights_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    pixels, transformer = build_layers(CHANNELS, **SMALL)

    def spread(value: Tensor, bound: float) -> bool:  # uniform in [-bound, bound]
        return 0.8 * bound < value.abs().max() <= bound and abs(value.mean()) < 0.2 * bound

    attention = pixels.encoder.layers[0].self_attn
    assert not attention.sampling_offsets.weight.any()
    assert not attention.attention_weights.weight.any()
    offsets = attention.sampling_offsets.bias.view(4, 3, 4, 2)
    for head, step in enumerate(([1, 0], [0, 1], [-1, 0], [0, -1])):
        for point in range(4):
            wanted = torch.tensor(step) * (point + 1.0)
            assert torch.allclose(offsets[head, :, point], wanted.expand(3, 2), atol=1e-5)
    assert spread(pixels.encoder.layers[0].fc1.weight, math.sqrt(6 / (32 + 16)))
    assert spread(attention.value_proj.weight, math.sqrt(6 / 64))
    assert spread(pixels.input_projections[0][0].weight, math.sqrt(6 / (32 + 10)))
    assert spread(pixels.mask_projection.weight, math.sqrt(3 / 32))
    layer = transformer.decoder.layers[0]
    joint = math.sqrt(6 / (32 + 96))  # one matrix for queries, keys and values
    assert spread(layer.cross_attn.in_proj_weight, joint)
    assert spread(layer.self_attn.k_proj.weight, joint) and not layer.self_attn.k_proj.bias.any()
    assert spread(layer.fc2.weight, math.sqrt(6 / (32 + 16)))
    for embedding in (transformer.queries_features, transformer.queries_embedder):
        assert 0.8 < embedding.weight.std() < 1.2
    assert 0.7 < pixels.level_embed.std() < 1.3


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.mask2former", None)
    with pytest.raises(ImportError, match="pip install 'transformers>=5'"):
        build_layers(CHANNELS, **SMALL)


def test_one_module_imports_transformers() -> None:
    folder = Path(package.__file__ or "").parent
    lines = {path.name: path.read_text().splitlines() for path in folder.glob("*.py")}
    words = ("import transformers", "from transformers")
    importing = [n for n, text in lines.items() if any(t.strip().startswith(words) for t in text)]
    assert importing == ["layers.py"] and len(lines) > 10


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"HIDDEN_DIM is 48.*multiple of 32"):
        build_layers(CHANNELS, **{**SMALL, "hidden_dim": 48})


def sine(height: int, width: int, dim: int) -> Tensor:
    """Sine embedding (dim, h, w), y first; one pixel and one frequency after the other."""
    found = torch.zeros(dim, height, width)
    half = dim // 2
    for row in range(height):
        for column in range(width):
            places = ((row + 1) / (height + 1e-6), (column + 1) / (width + 1e-6))
            for axis, place in enumerate(places):
                for k in range(half):
                    angle = 2 * math.pi * place / 10000 ** (2 * (k // 2) / half)
                    value = math.sin(angle) if k % 2 == 0 else math.cos(angle)
                    found[axis * half + k, row, column] = value
    return found


def linear(layer: Any, value: Tensor) -> Tensor:
    return value @ layer.weight.T + layer.bias


def norm(layer: Any, value: Tensor) -> Tensor:
    spread = ((value - value.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
    return (value - value.mean(-1, keepdim=True)) / (
        spread + 1e-5
    ).sqrt() * layer.weight + layer.bias


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, allowed: Tensor | None) -> Tensor:
    """One head and one query after the other; ``allowed`` bool (queries, keys)."""
    size = q.shape[1] // heads
    found = torch.zeros_like(q)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for query in range(len(q)):
            keys = range(len(k))
            if allowed is not None:
                keys = [key for key in keys if allowed[query, key]]
            scores = torch.stack([q[query, part] @ k[key, part] for key in keys]) / size**0.5
            share = scores.softmax(0)
            found[query, part] = sum(s * v[key, part] for s, key in zip(share, keys, strict=True))
    return found


def slow_decoder(decoder: TransformerDecoder, pixels: Tensor, levels: list[Tensor]) -> list[Any]:
    """Masked attention of one image, from the weights: (logits, masks) of each layer."""
    inner = decoder.transformer.decoder
    state, place = (
        decoder.transformer.queries_features.weight,
        decoder.transformer.queries_embedder.weight,
    )
    values, positions = [], []
    for number, level in enumerate(levels):
        values.append(level.flatten(1).T + decoder.transformer.level_embed.weight[number])
        positions.append(sine(*level.shape[1:], 32).flatten(1).T)

    def predict(state: Tensor) -> tuple[Tensor, Tensor]:
        seen = norm(inner.layernorm, state)
        vector = seen
        for number in range(3):
            vector = linear(inner.mask_predictor.mask_embedder.layers[number].layers[0], vector)
            vector = vector.relu() if number < 2 else vector
        return linear(decoder.class_predictor, seen), torch.einsum("qd,dhw->qhw", vector, pixels)

    found = [predict(state)]
    for number, layer in enumerate(inner.layers):
        level = levels[number % 3]
        small = F.interpolate(found[-1][1][None], size=level.shape[1:], mode="bilinear")[0]
        allowed = small.flatten(1).sigmoid() >= 0.5
        allowed[~allowed.any(dim=1)] = True  # a query without a mask looks everywhere
        weight, bias = layer.cross_attn.in_proj_weight, layer.cross_attn.in_proj_bias
        key = values[number % 3] + positions[number % 3]
        q, k, v = (
            x @ weight[32 * i : 32 * (i + 1)].T + bias[32 * i : 32 * (i + 1)]
            for i, x in enumerate((state + place, key, values[number % 3]))
        )
        seen = linear(layer.cross_attn.out_proj, attend(q, k, v, 4, allowed))
        state = norm(layer.cross_attn_layer_norm, state + seen)
        own = layer.self_attn
        q, k = linear(own.q_proj, state + place), linear(own.k_proj, state + place)
        seen = linear(own.out_proj, attend(q, k, linear(own.v_proj, state), 4, None))
        state = norm(layer.self_attn_layer_norm, state + seen)
        state = norm(
            layer.final_layer_norm, state + linear(layer.fc2, linear(layer.fc1, state).relu())
        )
        found.append(predict(state))
    return found


def test_masked_attention_is_that_of_loops(parts: tuple[PixelDecoder, TransformerDecoder]) -> None:
    _, decoder = parts
    torch.manual_seed(3)
    levels = [torch.randn(1, 32, 2, 3), torch.randn(1, 32, 4, 6), torch.randn(1, 32, 8, 12)]
    pixels = torch.randn(1, 32, 16, 24)
    with torch.no_grad():
        found = decoder(pixels, levels)
        wanted = slow_decoder(decoder, pixels[0], [level[0] for level in levels])
    assert len(found) == len(wanted) == 3
    for layer, (logits, masks) in zip(found, wanted, strict=True):
        assert torch.allclose(layer.logits[0], logits, atol=1e-4)
        assert torch.allclose(layer.masks[0], masks, atol=1e-3)


def test_a_query_without_a_mask_attends_everywhere(
    parts: tuple[PixelDecoder, TransformerDecoder],
) -> None:
    _, decoder = parts
    levels = [torch.randn(1, 32, 2, 3), torch.randn(1, 32, 4, 6), torch.randn(1, 32, 8, 12)]
    inner = decoder.transformer.decoder
    pixels = torch.zeros(1, 32, 16, 24)
    with torch.no_grad():
        everywhere = decoder(pixels, levels)[1].logits  # sigmoid(0) is 0.5: inside
        state = inner.layernorm(decoder.transformer.queries_features.weight)
        vectors = inner.mask_predictor.mask_embedder(state)
        # Features that make every mask logit -50.
        pixels[:] = (torch.linalg.pinv(vectors) @ torch.full((5,), -50.0))[None, :, None, None]
        found = decoder(pixels, levels)
    assert (found[0].masks < -40).all()
    assert torch.allclose(found[1].logits, everywhere, atol=1e-4)


def slow_pixel_encoder(decoder: Any, maps: list[Tensor]) -> list[Tensor]:
    """One layer of deformable attention over three maps (coarsest first), pixel by pixel."""
    attention = decoder.encoder.layers[0].self_attn
    layer = decoder.encoder.layers[0]
    values = [
        F.group_norm(F.conv2d(m[None], p[0].weight, p[0].bias), 32, p[1].weight, p[1].bias)[0]
        for m, p in zip(maps, decoder.input_projections, strict=True)
    ]
    position = [
        sine(*v.shape[1:], 32) + e[:, None, None]
        for v, e in zip(values, decoder.level_embed, strict=True)
    ]
    flat = torch.cat([v.flatten(1).T for v in values])
    place = torch.cat([p.flatten(1).T for p in position])
    centers = torch.cat(
        [
            torch.stack(
                [
                    ((torch.arange(v.shape[2]) + 0.5) / v.shape[2]).repeat(v.shape[1]),
                    ((torch.arange(v.shape[1]) + 0.5) / v.shape[1]).repeat_interleave(v.shape[2]),
                ],
                dim=1,
            )
            for v in values
        ]
    )
    projected = linear(attention.value_proj, flat).split([v[0].numel() for v in values])
    projected = [p.T.view(32, *v.shape[1:]) for p, v in zip(projected, values, strict=True)]
    offsets = linear(attention.sampling_offsets, flat + place).view(-1, 4, 3, 4, 2)
    shares = linear(attention.attention_weights, flat + place).view(-1, 4, 12).softmax(-1)
    seen = torch.zeros_like(flat)
    for token in range(len(flat)):
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            for number, value in enumerate(projected):
                for point in range(4):
                    size = torch.tensor([value.shape[2], value.shape[1]])
                    where = centers[token] + offsets[token, head, number, point] / size
                    got = F.grid_sample(
                        value[None, part], (2 * where - 1).view(1, 1, 1, 2), align_corners=False
                    ).flatten()
                    seen[token, part] += shares[token, head, 4 * number + point] * got
    state = norm(layer.self_attn_layer_norm, flat + linear(attention.output_proj, seen))
    state = norm(layer.final_layer_norm, state + linear(layer.fc2, linear(layer.fc1, state).relu()))
    parts = state.split([v[0].numel() for v in values])
    return [p.T.view(32, *v.shape[1:]) for p, v in zip(parts, values, strict=True)]


def test_the_pixel_decoder_is_that_of_loops(parts: tuple[PixelDecoder, TransformerDecoder]) -> None:
    decoder, _ = parts
    given = features(height=32, width=64)
    with torch.no_grad():
        pixels, levels = decoder(given)
        coarse_first = [given[name][0] for name in ("res5", "res4", "res3")]
        wanted = slow_pixel_encoder(decoder.decoder, coarse_first)
        for level, slow in zip(levels, wanted, strict=True):
            assert torch.allclose(level[0], slow, atol=1e-4)
        inner = decoder.decoder
        lateral = F.conv2d(given["res2"], inner.adapter_1[0].weight)
        lateral = F.group_norm(lateral, 32, inner.adapter_1[1].weight, inner.adapter_1[1].bias)
        larger = F.interpolate(wanted[2][None], size=lateral.shape[-2:], mode="bilinear")
        joined = F.conv2d(lateral + larger, inner.layer_1[0].weight, padding=1)
        joined = F.group_norm(joined, 32, inner.layer_1[1].weight, inner.layer_1[1].bias).relu()
        slow = F.conv2d(joined, inner.mask_projection.weight, inner.mask_projection.bias)
    assert torch.allclose(pixels, slow, atol=1e-4)


def test_bfloat16_keeps_the_pixel_decoder_in_float32(
    parts: tuple[PixelDecoder, TransformerDecoder],
) -> None:
    pixel_decoder, decoder = parts
    given = features(2)
    with torch.no_grad():
        exact = pixel_decoder(given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pixels, levels = pixel_decoder(given)
            rounded = decoder(pixels, levels)
        wanted = decoder(*exact)
    assert pixels.dtype == torch.float32 and torch.equal(pixels, exact[0])
    assert rounded[-1].logits.dtype == torch.bfloat16
    assert (rounded[0].logits.float() - wanted[0].logits).abs().max() < 0.1
