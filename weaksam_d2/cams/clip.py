"""CLIP with a vision transformer: the one place that loads it and that imports transformers."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.weights import WeightsError, resolve_weights

from .clip_vocabulary import find_vocabulary, read_vocabulary
from .clip_weights import (
    ClipSizes,
    clip_sizes,
    compare_keys,
    listed,
    read_openai_state,
    to_transformers,
)

__all__ = ["CLIP", "load_clip"]

_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))


class CLIP(nn.Module):
    """CLIP's two towers and its tokenizer, taken apart so that attention can be read off.

    Images are normalized float (N, 3, H, W) of any sides that the patch side divides. Tokens are
    (N, 1 + h w, width), the class token first and the patches row by row.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        """Take a ``CLIPModel`` and a ``CLIPTokenizer`` of transformers."""
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.config.vision_config.patch_size)

    @property
    def heads(self) -> int:
        """Attention heads of a block of the vision tower."""
        return int(self.model.config.vision_config.num_attention_heads)

    @property
    def layers(self) -> list[Any]:
        """Blocks of the vision tower."""
        return list(self.model.vision_model.encoder.layers)

    @property
    def scale(self) -> Tensor:
        """Factor of a cosine in a logit, a scalar."""
        scale: Tensor = self.model.logit_scale.exp()
        return scale

    def embed(self, images: Tensor) -> Tensor:
        """Tokens that enter the first block.

        NOTE: positions are resized with bilinear interpolation, as in CLIP-ES. transformers' own
        resizing is bicubic and gives slightly other maps.

        Raises:
            ValueError: a side that the patch side does not divide.
        """
        if images.shape[-2] % self.patch or images.shape[-1] % self.patch:
            raise ValueError(
                f"CLIP takes images whose sides are multiples of {self.patch} pixels, got "
                f"{images.shape[-2]} x {images.shape[-1]} (height x width)"
            )
        tower = self.model.vision_model
        patches = tower.embeddings.patch_embedding(images)
        first = tower.embeddings.class_embedding.expand(len(images), 1, -1)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._positions(patches.shape[-2], patches.shape[-1])
        normalized: Tensor = tower.pre_layrnorm(tokens)
        return normalized

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1 + height width, D) of a patch grid."""
        weight: Tensor = self.model.vision_model.embeddings.position_embedding.weight
        side = round((len(weight) - 1) ** 0.5)
        if (height, width) == (side, side):
            return weight
        grid = weight[1:].T.reshape(1, -1, side, side)
        grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        return torch.cat([weight[:1], grid[0].flatten(1).T])

    def attend(self, layer: Any, normalized: Tensor) -> tuple[Tensor, Tensor]:
        """Attention of a block on tokens after its first norm: output, weights (N, heads, t, t)."""
        attention = layer.self_attn
        query, key, value = (
            project(normalized).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
        return attention.out_proj((weights @ value).transpose(1, 2).flatten(2)), weights

    def finish(self, layer: Any, tokens: Tensor, attended: Tensor) -> Tensor:
        """Tokens that leave a block, from those that entered it and its attention's output."""
        tokens = tokens + attended
        left: Tensor = tokens + layer.mlp(layer.layer_norm2(tokens))
        return left

    def image_features(self, images: Tensor) -> Tensor:
        """What the class token says about each image: float (N, D), of length 1."""
        tokens = self.embed(images)
        for layer in self.layers:
            attended, _ = self.attend(layer, layer.layer_norm1(tokens))
            tokens = self.finish(layer, tokens, attended)
        return self.project(tokens[:, 0])

    def project(self, tokens: Tensor) -> Tensor:
        """Tokens (N, width) of the last block in the space that texts share, of length 1."""
        projected = self.model.visual_projection(self.model.vision_model.post_layernorm(tokens))
        return F.normalize(projected, dim=-1)

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> Tensor:
        """Float (n, D), of length 1.

        Raises:
            ValueError: a prompt with more tokens than the network has positions for.
        """
        limit = int(self.model.config.text_config.max_position_embeddings)
        rows = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            if len(row) > limit:
                raise ValueError(f"prompt {prompt!r} has {len(row)} tokens, CLIP takes {limit}")
        # What follows the end token does not reach it: attention looks back only.
        longest = max(map(len, rows))
        ids = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows])
        ids = ids.to(self.model.logit_scale.device)
        hidden = self.model.text_model(input_ids=ids).last_hidden_state
        ends = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        pooled = hidden[torch.arange(len(rows), device=ids.device), ends]
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def load_clip(source: str) -> CLIP:
    """Load CLIP in float32, in evaluation mode, with no parameter that asks for a gradient.

    Args:
        source: what :func:`weaksam_d2.weights.resolve_weights` takes: a folder in the format of
            transformers (``config.json``, weights, tokenizer files), or a file of OpenAI's CLIP.
            The sizes come from ``config.json`` or from the weights. The tokenizer of a file comes
            from the vocabulary beside it or from the package open_clip.

    Raises:
        WeightsError: nothing found, damaged, or keys that are missing or surplus.
        ImportError: a package is missing; says how to install it.
    """
    if not source:
        raise WeightsError(
            "CLIP needs weights: set MODEL.CLASSIFIER.WEIGHTS to 'clip_vit_b16', a file of "
            "OpenAI's CLIP, or a folder in the format of transformers"
        )
    transformers = _transformers()
    path = resolve_weights(source)
    if path.is_dir():
        clip = CLIP(_folder_model(transformers, path), _folder_tokenizer(transformers, path))
    else:
        model = _openai_model(transformers, path)
        vocabulary = int(model.config.text_config.vocab_size)
        clip = CLIP(model, _openai_tokenizer(transformers, path, vocabulary))
    if len(clip.tokenizer) != clip.model.config.text_config.vocab_size:
        raise WeightsError(
            f"{path}: the tokenizer knows {len(clip.tokenizer)} tokens, the network "
            f"{clip.model.config.text_config.vocab_size}; they do not belong together"
        )
    return clip.float().eval().requires_grad_(False)


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "CLIP needs the package transformers; run: python -m pip install 'transformers>=4.40'"
        ) from error
    return transformers


def _folder_model(transformers: Any, path: Path) -> Any:
    try:
        kind = json.loads((path / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path / 'config.json'}: cannot be read ({error})") from error
    if kind != "clip":
        raise WeightsError(f"{path / 'config.json'}: model_type is {kind!r}, expected 'clip'")
    try:
        model, info = transformers.CLIPModel.from_pretrained(
            str(path), local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # safetensors, pickle, shapes: a damaged folder fails in many ways
        raise WeightsError(f"{path}: cannot be loaded as a CLIP model ({error})") from error
    # Older files hold the row 0, 1, 2, ... as if it were a weight.
    surplus = [k for k in info["unexpected_keys"] if not k.endswith("embeddings.position_ids")]
    if info["missing_keys"] or surplus or info["mismatched_keys"]:
        raise WeightsError(
            f"{path}: does not fit its config.json. Missing keys: "
            f"{listed(sorted(info['missing_keys']))}; surplus keys: {listed(sorted(surplus))}; "
            f"other shapes: {listed(sorted(map(str, info['mismatched_keys'])))}"
        )
    return model


def _folder_tokenizer(transformers: Any, path: Path) -> Any:
    # Without its files transformers makes a tokenizer that knows nothing.
    if not any(all((path / name).is_file() for name in names) for names in _TOKENIZER_FILES):
        raise WeightsError(
            f"{path}: has no tokenizer; expected tokenizer.json, or vocab.json and merges.txt"
        )
    try:
        return transformers.CLIPTokenizerFast.from_pretrained(str(path), local_files_only=True)
    except Exception as error:  # the tokenizer's own library raises nothing narrower
        raise WeightsError(f"{path}: its tokenizer cannot be loaded ({error})") from error


def _openai_model(transformers: Any, path: Path) -> Any:
    state = read_openai_state(path)
    config = _config(transformers, clip_sizes(state, path))
    model = transformers.CLIPModel(config)
    renamed = to_transformers(state)
    wanted = {k: v for k, v in model.state_dict().items() if not k.endswith(".position_ids")}
    compare_keys(wanted, renamed, path)
    model.load_state_dict(renamed, strict=False)
    return model


def _config(transformers: Any, sizes: ClipSizes) -> Any:
    towers = {
        name: {
            "hidden_size": tower.width,
            "num_hidden_layers": tower.blocks,
            "num_attention_heads": tower.heads,
            "intermediate_size": tower.mlp,
            "hidden_act": "quick_gelu",
            "projection_dim": sizes.projection,
        }
        for name, tower in (("vision", sizes.vision), ("text", sizes.text))
    }
    text = {
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.context,
        "bos_token_id": sizes.vocabulary - 2,
        "eos_token_id": sizes.vocabulary - 1,
    }
    return transformers.CLIPConfig(
        vision_config={**towers["vision"], "patch_size": sizes.patch, "image_size": sizes.image},
        text_config={**towers["text"], **text},
        projection_dim=sizes.projection,
    )


def _openai_tokenizer(transformers: Any, path: Path, size: int) -> Any:
    """A tokenizer from the list of merges that OpenAI published for all of its networks."""
    tokens, merges = read_vocabulary(find_vocabulary(path), size)
    with tempfile.TemporaryDirectory() as folder:
        ids = {token: index for index, token in enumerate(tokens)}
        (Path(folder) / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        text = "\n".join(["#version: 0.2", *merges]) + "\n"
        (Path(folder) / "merges.txt").write_text(text, encoding="utf-8")
        return transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
