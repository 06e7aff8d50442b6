"""Names in published DINO checkpoints and what they are called here.

extras.md, Sec. 1.4. Two families: detrex's and that of the paper's authors (IDEA-Research/DINO).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["FAMILIES", "Names", "family_of", "rename"]

FAMILIES = {"ffns.0": "detrex", "linear1": "IDEA"}  # the part of a name that tells one

_DETREX_FFN = {"ffns.0.layers.0.0": "mlp.fc1", "ffns.0.layers.1": "mlp.fc2"}
_IDEA_FFN = {"linear1": "mlp.fc1", "linear2": "mlp.fc2"}
_LAYERS = {
    ("detrex", "encoder"): {
        "attentions.0": "self_attn",
        "norms.0": "self_attn_layer_norm",
        "norms.1": "final_layer_norm",
        **_DETREX_FFN,
    },
    ("detrex", "decoder"): {
        "attentions.0.attn": "self_attn",
        "attentions.1": "encoder_attn",
        "norms.0": "self_attn_layer_norm",
        "norms.1": "encoder_attn_layer_norm",
        "norms.2": "final_layer_norm",
        **_DETREX_FFN,
    },
    ("IDEA", "encoder"): {
        "self_attn": "self_attn",
        "norm1": "self_attn_layer_norm",
        "norm2": "final_layer_norm",
        **_IDEA_FFN,
    },
    ("IDEA", "decoder"): {
        "self_attn": "self_attn",
        "cross_attn": "encoder_attn",
        # In the order of their names, not of their use: the cross-attention came first once.
        "norm2": "self_attn_layer_norm",
        "norm1": "encoder_attn_layer_norm",
        "norm3": "final_layer_norm",
        **_IDEA_FFN,
    },
}
_IGNORED = re.compile(r"^criterion\.|num_batches_tracked$")
_LAYER = re.compile(r"^transformer\.(encoder|decoder)\.layers\.(\d+)\.(.+)$")
_ATTENTION_INPUT = re.compile(r"^(decoder\..+\.self_attn)\.in_proj_(weight|bias)$")
_ATTENTION_OUTPUT = re.compile(r"^(decoder\..+\.self_attn)\.out_proj\.")
_DUPLICATE = re.compile(r"^transformer\.decoder\.((?:class|bbox)_embed\..+)$")


@dataclass(frozen=True)
class Names:
    """What the names of a model depend on: its decoder layers and the maps of its backbone."""

    decoder_layers: int
    maps: int


def family_of(state: Mapping[str, Tensor]) -> str | None:
    """``detrex``, ``IDEA``, or None for a state of another kind."""
    for part, family in FAMILIES.items():
        if any(f".{part}." in name for name in state):
            return family
    return None


def rename(state: Mapping[str, Tensor], family: str, names: Names) -> dict[str, Tensor]:
    """Our names for the tensors of a published state; names that are not known stay.

    Query, key and value of the decoder's self-attention are parted, copies of heads inside the
    transformer are left out, as is what is no weight.

    Raises:
        ValueError: a copy of a head that differs from the head, or has none.
    """
    renamed: dict[str, Tensor] = {}
    copies: dict[str, str] = {}
    for name, value in state.items():
        if _IGNORED.search(name):
            continue
        if duplicate := _DUPLICATE.match(name):
            copies[name] = duplicate[1]
            continue
        ours = _ours(name, family, names)
        if merged := _ATTENTION_INPUT.match(ours):
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{merged[1]}.{part}_proj.{merged[2]}"] = third
        else:
            renamed[_ATTENTION_OUTPUT.sub(r"\1.o_proj.", ours)] = value
    for name, original in copies.items():
        head = renamed.get(original)
        if head is None or not head.equal(state[name]):
            raise ValueError(f"'{name}' must be a copy of '{original}' and is not")
    return renamed


def _ours(name: str, family: str, names: Names) -> str:
    if layer := _LAYER.match(name):
        stack, index, inner = layer.groups()
        for theirs, ours in _LAYERS[family, stack].items():
            if inner.startswith(theirs + "."):
                return f"{stack}.layers.{index}.{ours}{inner[len(theirs) :]}"
        return name
    rules = _SHARED if family == "detrex" else (*_SHARED, *_IDEA)
    for pattern, make in rules:
        if found := re.match(pattern, name):
            return make(found, names) + name[found.end() :]
    return name


_Rule = tuple[str, Callable[[re.Match[str], Names], str]]
_SHARED: tuple[_Rule, ...] = (
    (r"transformer\.decoder\.(?=norm\.|ref_point_head\.)", lambda m, n: "decoder."),
    (r"transformer\.(?=tgt_embed\.|enc_output\.|enc_output_norm\.)", lambda m, n: ""),
    (r"transformer\.level_embeds?$", lambda m, n: "level_embeds"),
)
_IDEA: tuple[_Rule, ...] = (
    (r"transformer\.enc_out_(class|bbox)_embed", lambda m, n: f"{m[1]}_embed.{n.decoder_layers}"),
    (r"input_proj\.(\d+)\.([01])", lambda m, n: _neck(int(m[1]), m[2], n)),
    (r"backbone\.0\.body\.conv1", lambda m, n: "backbone.stem.conv1"),
    (r"backbone\.0\.body\.bn1", lambda m, n: "backbone.stem.conv1.norm"),
    (
        r"backbone\.0\.body\.layer(\d)\.(\d+)\.(conv\d|bn\d|downsample\.[01])",
        lambda m, n: f"backbone.res{int(m[1]) + 1}.{m[2]}.{_convolution(m[3])}",
    ),
)


def _neck(index: int, part: str, names: Names) -> str:
    place = f"convs.{index}" if index < names.maps else f"extra_convs.{index - names.maps}"
    return f"neck.{place}.{'conv' if part == '0' else 'norm'}"


def _convolution(theirs: str) -> str:
    """``conv2`` stays, ``bn2`` is ``conv2.norm``, ``downsample.1`` is ``shortcut.norm``."""
    if theirs.startswith("bn"):
        return f"conv{theirs[2:]}.norm"
    return {"downsample.0": "shortcut", "downsample.1": "shortcut.norm"}.get(theirs, theirs)
