"""The network against a slow formulation in plain loops."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from weaksam_d2.projects.dino.denoising import EMPTY_SLOT, Denoising
from weaksam_d2.projects.dino.network import DINONetwork

Array = np.ndarray[Any, Any]
MakeNetwork = Callable[..., DINONetwork]


class Reference:
    """One image at a time, one query at a time, in float64; extras.md, Sec. 1.1."""

    def __init__(self, network: DINONetwork) -> None:
        self.p = {k: v.double().numpy() for k, v in network.state_dict().items()}
        self.s = network.settings

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"]

    def norm(self, name: str, x: Array) -> Array:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def mlp(self, name: str, x: Array, layers: int) -> Array:
        for i in range(layers):
            x = self.linear(f"{name}.layers.{i}", x)
            x = np.maximum(x, 0) if i < layers - 1 else x
        return x

    def neck(self, maps: dict[str, Tensor]) -> list[Array]:
        last = [maps[name] for name in self.s.in_features]
        levels = []
        for i in range(self.s.num_levels):
            extra = i - len(last)
            name = f"neck.convs.{i}" if extra < 0 else f"neck.extra_convs.{extra}"
            given = last[i] if extra < 0 else last[-1] if extra == 0 else levels[-1]
            weight, bias = (torch.tensor(self.p[f"{name}.conv.{k}"]) for k in ("weight", "bias"))
            stride, pad = (1, 0) if extra < 0 else (2, 1)
            x = nn.functional.conv2d(given.double(), weight, bias, stride=stride, padding=pad)
            grouped = x.view(len(x), 16, -1)  # 32 of two channels or more; 16 of 32 channels
            mean = grouped.mean(-1, keepdim=True)
            std = (grouped.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            x = ((grouped - mean) / std).view(x.shape)
            scale, shift = (torch.tensor(self.p[f"{name}.norm.{k}"]) for k in ("weight", "bias"))
            levels.append(x * scale[:, None, None] + shift[:, None, None])
        return [level.numpy() for level in levels]

    def sine(self, value: float, count: int, temperature: float) -> list[float]:
        out = []
        for i in range(count):
            angle = value / temperature ** (2 * (i // 2) / count)
            out.append(math.cos(angle) if i % 2 else math.sin(angle))
        return out

    def deformable(
        self, name: str, query: Array, values: list[Array], valid: list[Array], ref: Array
    ) -> Array:
        """One query (D,); values: (h, w, D) of each level; ref: (L, 2 or 4)."""
        heads, points, levels = self.s.num_heads, self.s.num_points, self.s.num_levels
        size = self.s.hidden_dim // heads
        shifts = self.linear(f"{name}.sampling_offsets", query).reshape(heads, levels, points, 2)
        weights = self.linear(f"{name}.attention_weights", query).reshape(heads, -1)
        weights = np.exp(weights - weights.max(-1, keepdims=True))
        weights = (weights / weights.sum(-1, keepdims=True)).reshape(heads, levels, points)
        out = np.zeros((heads, size))
        for h in range(heads):
            for level in range(levels):
                rows, columns, _ = values[level].shape
                for k in range(points):
                    shift = shifts[h, level, k]
                    if ref.shape[1] == 2:
                        place = ref[level] + shift / (columns, rows)
                    else:
                        place = ref[level, :2] + shift / points * ref[level, 2:] / 2
                    x, y = place[0] * columns - 0.5, place[1] * rows - 0.5
                    for j in (math.floor(y), math.floor(y) + 1):
                        for i in (math.floor(x), math.floor(x) + 1):
                            if 0 <= i < columns and 0 <= j < rows and valid[level][j, i]:
                                part = (1 - abs(x - i)) * (1 - abs(y - j)) * weights[h, level, k]
                                out[h] += part * values[level][j, i, h * size : (h + 1) * size]
        return self.linear(f"{name}.output_proj", out.reshape(-1))

    def attention(self, name: str, x: Array, positions: Array, seen: Array) -> Array:
        q, k = (self.linear(f"{name}.{c}_proj", x + positions) for c in "qk")
        v = self.linear(f"{name}.v_proj", x)
        size = self.s.hidden_dim // self.s.num_heads
        parts = []
        for h in range(self.s.num_heads):
            cut = slice(h * size, (h + 1) * size)
            score = np.where(seen, q[:, cut] @ k[:, cut].T / math.sqrt(size), -np.inf)
            score = np.exp(score - score.max(-1, keepdims=True))
            parts.append(score / score.sum(-1, keepdims=True) @ v[:, cut])
        return self.linear(f"{name}.o_proj", np.concatenate(parts, -1))

    def feed_forward(self, name: str, x: Array) -> Array:
        hidden = np.maximum(self.linear(f"{name}.mlp.fc1", x), 0)
        return self.norm(f"{name}.final_layer_norm", x + self.linear(f"{name}.mlp.fc2", hidden))

    def forward(
        self, maps: dict[str, Tensor], sizes: list[tuple[int, int]], padded: tuple[int, int],
        noised: Denoising | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        levels = self.neck(maps)
        return [
            self.image([level[n] for level in levels], size, padded, noised, n)
            for n, size in enumerate(sizes)
        ]

    def image(
        self, maps: list[Array], size: tuple[int, int], padded: tuple[int, int],
        noised: Denoising | None, n: int,
    ) -> dict[str, Any]:  # fmt: skip
        shapes = [m.shape[1:] for m in maps]
        inside = [
            np.array([[j * padded[0] // h < size[0] and i * padded[1] // w < size[1]
                       for i in range(w)] for j in range(h)])
            for h, w in shapes
        ]  # fmt: skip
        memory = [m.transpose(1, 2, 0) for m in maps]
        filled = [(v[0].sum(), v[:, 0].sum()) for v in inside]  # columns, rows
        ratios = [
            np.array((fx / w, fy / h)) for (fx, fy), (h, w) in zip(filled, shapes, strict=True)
        ]
        half = self.s.hidden_dim // 2
        places, refs, anchors = {}, {}, {}
        for level, (h, w) in enumerate(shapes):
            for j in range(h):
                for i in range(w):
                    fx, fy = filled[level]
                    at = []
                    for cell, full in ((j, fy), (i, fx)):
                        turn = (cell + 1 + self.s.pos_offset) / (full + 1e-6) * 2 * math.pi
                        at += self.sine(turn, half, self.s.pos_temperature)
                    key = (level, j, i)
                    places[key] = np.array(at) + self.p["level_embeds"][level]
                    center = np.array(((i + 0.5) / fx, (j + 0.5) / fy))
                    refs[key] = np.stack([center * ratio for ratio in ratios])
                    anchors[key] = np.array([*center, *[0.05 * 2**level] * 2])
        for number in range(self.s.encoder_layers):
            memory = self.encode(f"encoder.layers.{number}", memory, inside, places, refs)
        return self.queries(memory, inside, anchors, ratios, noised, n)

    def encode(
        self, name: str, memory: list[Array], inside: list[Array], places: Any, refs: Any
    ) -> list[Array]:
        values = [self.linear(f"{name}.self_attn.value_proj", m) for m in memory]
        out = [np.zeros_like(m) for m in memory]
        for (level, j, i), place in places.items():
            if inside[level][j, i]:  # nothing else is ever looked at
                x, ref = memory[level][j, i], refs[level, j, i]
                x = x + self.deformable(f"{name}.self_attn", x + place, values, inside, ref)
                out[level][j, i] = self.feed_forward(
                    name, self.norm(f"{name}.self_attn_layer_norm", x)
                )
        return out

    def queries(
        self, memory: list[Array], inside: list[Array], anchors: Any, ratios: list[Array],
        noised: Denoising | None, n: int,
    ) -> dict[str, Any]:  # fmt: skip
        last, found = self.s.decoder_layers, []
        for (level, j, i), anchor in anchors.items():
            if inside[level][j, i] and ((anchor > 0.01) & (anchor < 0.99)).all():
                token = self.linear("enc_output", memory[level][j, i])
                token = self.norm("enc_output_norm", token)
                logits = self.linear(f"class_embed.{last}", token)
                shift = self.mlp(f"bbox_embed.{last}", token, 3)
                box = 1 / (1 + np.exp(-(shift + np.log(anchor / (1 - anchor)))))
                found.append((logits, box))
        found.sort(key=lambda pair: -pair[0].max())
        found = found[: self.s.num_queries]
        encoder = np.stack([f[0] for f in found]), np.stack([f[1] for f in found])
        states, boxes = self.p["tgt_embed.weight"], encoder[1]
        seen = np.ones((len(states), len(states)), bool)
        if noised is not None:
            classes = self.p["label_enc.weight"][noised.classes[n]]
            empty = (noised.targets[n] == EMPTY_SLOT).numpy()
            states = np.concatenate([np.where(empty[:, None], 0.0, classes), states])
            start = np.clip(noised.boxes[n].double().numpy(), 0, 1)
            logit = np.log(np.maximum(start, 1e-3) / np.maximum(1 - start, 1e-3))
            boxes = np.concatenate([1 / (1 + np.exp(-logit)), boxes])
            seen = noised.attention_mask(self.s.num_queries).numpy()
        layers = []
        for number in range(last):
            name = f"decoder.layers.{number}"
            at = np.array([sum((self.sine(box[k] * 2 * math.pi, self.s.hidden_dim // 2, 10000)
                                for k in (1, 0, 2, 3)), []) for box in boxes])  # fmt: skip
            at = self.mlp("decoder.ref_point_head", at, 2)
            states = states + self.attention(f"{name}.self_attn", states, at, seen)
            states = self.norm(f"{name}.self_attn_layer_norm", states)
            values = [self.linear(f"{name}.encoder_attn.value_proj", m) for m in memory]
            crossed = []
            for state, place, box in zip(states, at, boxes, strict=True):
                ref = np.stack([box * np.concatenate([ratio, ratio]) for ratio in ratios])
                crossed.append(
                    self.deformable(f"{name}.encoder_attn", state + place, values, inside, ref)
                )
            states = self.norm(f"{name}.encoder_attn_layer_norm", states + np.stack(crossed))
            states = self.feed_forward(name, states)
            normed = self.norm("decoder.norm", states)
            logit = np.log(np.maximum(boxes, 1e-3) / np.maximum(1 - boxes, 1e-3))
            predicted = self.mlp(f"bbox_embed.{number}", normed, 3) + logit
            moved = self.mlp(f"bbox_embed.{number}", states, 3) + logit
            layers.append(
                (self.linear(f"class_embed.{number}", normed), 1 / (1 + np.exp(-predicted)))
            )
            boxes = 1 / (1 + np.exp(-moved))
        return {"encoder": encoder, "layers": layers}


@pytest.mark.parametrize("noise", [False, True])
def test_the_network_is_the_slow_reference(
    make_network: MakeNetwork,
    images: Callable[..., Tensor],
    noised_queries: Denoising,
    noise: bool,
) -> None:
    network = make_network(pos_offset=-0.5 if noise else 0.0, pos_temperature=20.0)
    sizes, padded = [(64, 48), (40, 60)], (64, 64)
    batch, noised = images(*sizes, padded=padded), noised_queries if noise else None
    with torch.no_grad():
        output = network.predict(batch, sizes, noised)
        wanted = Reference(network).forward(network.backbone(batch), sizes, padded, noised)
    skip = noised.boxes.shape[1] if noised else 0
    assert len(output.layers) == 2 and len(output.denoising) == (2 if noise else 0)
    for n, one in enumerate(wanted):
        torch.testing.assert_close(
            output.encoder.logits[n].double(), torch.tensor(one["encoder"][0]), rtol=0, atol=1e-5
        )
        for i, (logits, boxes) in enumerate(one["layers"]):
            given = output.layers[i]
            found = given.logits[n], given.boxes[n]
            if noise:
                before = output.denoising[i]
                found = (
                    torch.cat([before.logits[n], found[0]]),
                    torch.cat([before.boxes[n], found[1]]),
                )
            assert len(found[0]) == skip + 10
            torch.testing.assert_close(found[0].double(), torch.tensor(logits), rtol=0, atol=1e-5)
            torch.testing.assert_close(found[1].double(), torch.tensor(boxes), rtol=0, atol=1e-5)
