"""Names of Mask2Former's weights: ours, the official repository's and transformers'."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["HUB", "OFFICIAL", "family_of", "hub_name", "official_name", "to_official"]

OFFICIAL, HUB = "official", "transformers"
_HEAD = "sem_seg_head."
_PIXELS, _LEVELS = "model.pixel_level_module.", "model.transformer_module."

# Our names (regular expressions) and the official ones; ours after the first dot are those of
# transformers. A third number after "third" is the part of a joint projection: q, k, v.
_ENCODER = r"pixel_decoder\.decoder\.encoder\.layers\.(\d+)\."
_LAYER = r"predictor\.transformer\.decoder\.layers\.(\d+)\."
_THEIR_ENCODER = _HEAD + r"pixel_decoder.transformer.encoder.layers.\1."
_CROSS = _HEAD + r"predictor.transformer_cross_attention_layers.\1."
_SELF = _HEAD + r"predictor.transformer_self_attention_layers.\1."
_FFN = _HEAD + r"predictor.transformer_ffn_layers.\1."
_RULES: tuple[tuple[str, str], ...] = (
    (r"(backbone\..*)", r"\1"),
    (r"pixel_decoder\.decoder\.level_embed", _HEAD + "pixel_decoder.transformer.level_embed"),
    (r"pixel_decoder\.decoder\.input_projections\.(.*)", _HEAD + r"pixel_decoder.input_proj.\1"),
    (_ENCODER + r"(self_attn\..*)", _THEIR_ENCODER + r"\2"),
    (_ENCODER + r"self_attn_layer_norm\.(.*)", _THEIR_ENCODER + r"norm1.\2"),
    (_ENCODER + r"fc([12])\.(.*)", _THEIR_ENCODER + r"linear\2.\3"),
    (_ENCODER + r"final_layer_norm\.(.*)", _THEIR_ENCODER + r"norm2.\2"),
    (r"pixel_decoder\.decoder\.(adapter_1|layer_1)\.0\.(.*)", _HEAD + r"pixel_decoder.\1.\2"),
    (r"pixel_decoder\.decoder\.(adapter_1|layer_1)\.1\.(.*)", _HEAD + r"pixel_decoder.\1.norm.\2"),
    (r"pixel_decoder\.decoder\.mask_projection\.(.*)", _HEAD + r"pixel_decoder.mask_features.\1"),
    (r"predictor\.transformer\.queries_features\.(.*)", _HEAD + r"predictor.query_feat.\1"),
    (r"predictor\.transformer\.queries_embedder\.(.*)", _HEAD + r"predictor.query_embed.\1"),
    (r"predictor\.transformer\.level_embed\.(.*)", _HEAD + r"predictor.level_embed.\1"),
    (_LAYER + r"cross_attn\.(.*)", _CROSS + r"multihead_attn.\2"),
    (_LAYER + r"cross_attn_layer_norm\.(.*)", _CROSS + r"norm.\2"),
    (_LAYER + r"self_attn\.([qkv])_proj\.(.*)", _SELF + r"self_attn.in_proj_\3"),
    (_LAYER + r"self_attn\.(out_proj\..*)", _SELF + r"self_attn.\2"),
    (_LAYER + r"self_attn_layer_norm\.(.*)", _SELF + r"norm.\2"),
    (_LAYER + r"fc([12])\.(.*)", _FFN + r"linear\2.\3"),
    (_LAYER + r"final_layer_norm\.(.*)", _FFN + r"norm.\2"),
    (r"predictor\.transformer\.decoder\.layernorm\.(.*)", _HEAD + r"predictor.decoder_norm.\1"),
    (
        r"predictor\.transformer\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.(.*)",
        _HEAD + r"predictor.mask_embed.layers.\1.\2",
    ),
    (r"predictor\.class_predictor\.(.*)", _HEAD + r"predictor.class_embed.\1"),
)
# A residual network in transformers: its stages begin at 0, ours at 2.
_STEM = "encoder.embedder.embedder."
_BLOCK = re.compile(r"backbone\.res(\d)\.(\d+)\.(conv(\d)|shortcut)\.(norm\.)?(\w+)")


def family_of(state: Mapping[str, Tensor]) -> str:
    """:data:`OFFICIAL` or :data:`HUB`: whose names a state dict has.

    Raises:
        ValueError: neither.
    """
    if any(name.startswith(_LEVELS) for name in state):
        return HUB
    if any(name.startswith(_HEAD) for name in state):
        return OFFICIAL
    raise ValueError(
        f"has no names of Mask2Former ({_HEAD}… of the official repository or {_LEVELS}… of "
        f"transformers), but {sorted(state)[:10]}"
    )


def official_name(name: str) -> tuple[str, int | None]:
    """The official name of one of ours; and which third of it, or None: all.

    Raises:
        KeyError: the name is not one of ours.
    """
    for ours, theirs in _RULES:
        found = re.fullmatch(ours, name)
        if found is not None:
            third = re.search(r"\.self_attn\.([qkv])_proj\.", name)
            part = "qkv".index(third.group(1)) if third and "transformer" in name else None
            return found.expand(theirs), part
    raise KeyError(name)


def hub_name(name: str) -> tuple[str, None]:
    """The name in transformers of one of ours; the backbone is a residual network.

    Raises:
        KeyError: the name is not one of ours.
    """
    for ours, theirs in (
        ("pixel_decoder.decoder.", _PIXELS + "decoder."),
        ("predictor.transformer.", _LEVELS),
        ("predictor.class_predictor.", "class_predictor."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours), None
    stem = re.fullmatch(r"backbone\.stem\.conv1\.(norm\.)?(\w+)", name)
    if stem is not None:
        kind = "normalization" if stem.group(1) else "convolution"
        return f"{_PIXELS}{_STEM}{kind}.{stem.group(2)}", None
    block = _BLOCK.fullmatch(name)
    if block is None:
        raise KeyError(name)
    stage, number, part, convolution, norm, value = block.groups()
    place = "shortcut" if convolution is None else f"layer.{int(convolution) - 1}"
    kind = "normalization" if norm else "convolution"
    layer = f"encoder.encoder.stages.{int(stage) - 2}.layers.{number}.{place}.{kind}.{value}"
    return f"{_PIXELS}{layer}", None


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of our model under the official names; the thirds of projections joined."""
    parts: dict[str, dict[int | None, Tensor]] = {}
    for name, value in state.items():
        theirs, third = official_name(name)
        parts.setdefault(theirs, {})[third] = value
    return {
        name: found[None] if None in found else torch.cat([found[third] for third in range(3)])
        for name, found in parts.items()
    }
