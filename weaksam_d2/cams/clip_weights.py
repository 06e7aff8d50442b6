"""Weights of OpenAI's CLIP under the names of transformers, and the sizes that they tell."""

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from weaksam_d2.weights import WeightsError

__all__ = ["ClipSizes", "clip_sizes", "compare_keys", "read_openai_state", "to_transformers"]

HEAD_WIDTH = 64  # of all networks that OpenAI published; the weights do not tell it
_LARGEST_WIDTH = 1024  # ViT-L/14
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # of the JIT archive
_LISTED_KEYS = 5
_TOWERS = (
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
)
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_REST = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",  # their spelling
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
_TRANSPOSED = ("visual.proj", "text_projection")


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of one transformer: token width, blocks, heads, and width within the MLP."""

    width: int
    blocks: int
    heads: int
    mlp: int


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of a CLIP network. ``patch`` and ``image`` are sides in pixels."""

    vision: TowerSizes
    text: TowerSizes
    patch: int
    image: int
    projection: int
    vocabulary: int
    context: int


def read_openai_state(path: Path) -> dict[str, Tensor]:
    """Read a file of OpenAI's CLIP: the JIT archive as published, or a plain state dict.

    Returns float32 tensors under OpenAI's names.

    Raises:
        WeightsError: the file is damaged or holds something else.
    """
    try:
        if _is_jit_archive(path):
            stored = torch.jit.load(str(path), map_location="cpu").state_dict()
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, EOF: a damaged file fails in many ways
        raise WeightsError(
            f"{path}: cannot be read as a CLIP checkpoint ({error}); delete it and get it again"
        ) from error
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise WeightsError(f"{path}: holds no state dict (names and tensors)")
    if any(key.startswith("vision_model.") for key in stored):
        raise WeightsError(
            f"{path}: has the names of transformers; give the folder with its config.json and "
            "tokenizer files instead"
        )
    if any(key.startswith("visual.attnpool.") for key in stored):
        raise WeightsError(f"{path}: is CLIP with a ResNet; a vision transformer is needed")
    return {key: value.float() for key, value in stored.items() if key not in _NOT_WEIGHTS}


def clip_sizes(state: Mapping[str, Tensor], path: Path) -> ClipSizes:
    """Read the sizes of the network off its weights (OpenAI's names). ``path`` is for messages.

    Raises:
        WeightsError: weights that tell a size are missing, or are not of OpenAI's networks.
    """
    try:
        patches = state["visual.conv1.weight"]
        grid = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        return ClipSizes(
            vision=_tower(state, _TOWERS[0][0], path),
            text=_tower(state, _TOWERS[1][0], path),
            patch=patches.shape[-1],
            image=grid * patches.shape[-1],
            projection=state["visual.proj"].shape[1],
            vocabulary=len(state["token_embedding.weight"]),
            context=len(state["positional_embedding"]),
        )
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"{path}: lacks a weight or a dimension of it ({error}), so it is not a file of "
            "OpenAI's CLIP with a vision transformer, such as ViT-B-16.pt"
        ) from error


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename OpenAI's weights, split query, key and value, and transpose the projections.

    A name that is not in OpenAI's networks stays as it is (and is then surplus).
    """
    return dict(pair for key, value in state.items() for pair in _renamed(key, value))


def compare_keys(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are those of a network, neither more nor fewer.

    Raises:
        WeightsError: lists missing and surplus keys and other shapes, and names the file.
    """
    missing, surplus = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and wanted[key].shape != found[key].shape
    ]
    if missing or surplus or shapes:
        raise WeightsError(
            f"{path}: does not fit CLIP. Missing keys: {listed(missing)}; surplus keys: "
            f"{listed(surplus)}; other shapes: {listed(shapes)}"
        )


def listed(keys: list[str]) -> str:
    """The first keys of a list, and how many there are more."""
    more = f" and {len(keys) - _LISTED_KEYS} more" if len(keys) > _LISTED_KEYS else ""
    return f"{keys[:_LISTED_KEYS]}{more}"


def _is_jit_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tower(state: Mapping[str, Tensor], prefix: str, path: Path) -> TowerSizes:
    hidden = state[f"{prefix}0.mlp.c_fc.weight"]
    width = hidden.shape[1]
    if width > _LARGEST_WIDTH or width % HEAD_WIDTH and width > HEAD_WIDTH:
        raise WeightsError(
            f"{path}: a transformer of width {width} is none of OpenAI's; its number of heads is "
            "not in the weights. Give a folder in the format of transformers instead"
        )
    blocks = {int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)}
    return TowerSizes(width, len(blocks), max(1, width // HEAD_WIDTH), hidden.shape[0])


def _renamed(key: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    for theirs, ours in _TOWERS:
        if not key.startswith(theirs):
            continue
        number, _, inner = key[len(theirs) :].partition(".")
        if inner in ("attn.in_proj_weight", "attn.in_proj_bias") and len(value) % 3 == 0:
            kind = inner.rpartition("_")[2]
            for name, part in zip("qkv", value.chunk(3), strict=True):
                yield f"{ours}{number}.self_attn.{name}_proj.{kind}", part
            return
        module, _, kind = inner.rpartition(".")
        if module in _BLOCK:
            yield f"{ours}{number}.{_BLOCK[module]}.{kind}", value
            return
    yield _REST.get(key, key), value.T if key in _TRANSPOSED else value
