"""Published weights of WeakTr and MCTformer, and ImageNet weights to start from.

wsss.md, Sec. 3.2. The published loaders skip what does not fit, so that an older file leaves the
fusion random without a word; here every key must be there and no other.
"""

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_d2.ops.class_tokens import resize_positions
from weaksam_d2.weights import WeightsError, resolve_weights

from .class_token_vit import ClassTokenViT

__all__ = ["IMAGENET", "identify", "load_published", "read_state"]

logger = logging.getLogger(__name__)

IMAGENET = "ImageNet DeiT"
# Kind of a checkpoint: the key that describes it, and how its positions were resized in training.
_KINDS = {
    "WeakTr v1": ("MODEL.CLASSIFIER.WEAKTR.FUSION v1", "scale"),
    "WeakTr v2": ("MODEL.CLASSIFIER.WEAKTR.FUSION v2", "scale"),
    "WeakTr v3": ("MODEL.CLASSIFIER.WEAKTR.FUSION v3", "scale"),
    "MCTformer V1": ("MODEL.CLASSIFIER.MCTFORMER.VERSION V1", "scale"),
    "MCTformer V2": ("MODEL.CLASSIFIER.MCTFORMER.VERSION V2", "scale"),
    "MCTformer Plus": ("MODEL.CLASSIFIER.MCTFORMER.VERSION Plus", "size"),
}
_FUSION = "adaptive_attention_fusion."
_COCO_ROWS = 90
_LISTED = 5


def load_published(network: nn.Module, source: str, *, kind: str, vit: ClassTokenViT) -> bool:
    """Load published weights into a network, strictly; True if it classifies with them.

    An ImageNet file gives False: its class token and that token's position start each of ours,
    its patch positions are resized, its head is not used.

    Args:
        network: has ``vit``; every other name in its state is as in the published files.
        source: file or URL.
        kind: what a checkpoint of this network is called, such as "WeakTr v3".
        vit: the network's transformer.

    Raises:
        WeightsError: a file that cannot be had, read or recognized, keys that are missing or
            superfluous, other shapes. ValueError: a config key that contradicts the file.
    """
    path = resolve_weights(source)
    state = read_state(path)
    found = identify(state, path)
    wanted = {name.removeprefix("vit."): value for name, value in network.state_dict().items()}
    if found == IMAGENET:
        own = {k: v for k, v in wanted.items() if k.startswith(("head.", _FUSION))}
        state = {**_from_imagenet(state, vit, path), **own}
    else:
        if found == "MCTformer Plus":
            state.pop("pos_embed", None)  # left over from the class it derives from
        _check_agreement(found, state, wanted, path, kind=kind, vit=vit)
    _check_keys(state, wanted, path, found)
    names = {name.removeprefix("vit."): name for name in network.state_dict()}
    network.load_state_dict({names[key]: value for key, value in state.items()})
    logger.info("%s: %s weights loaded", path.name, found)
    return found != IMAGENET


def read_state(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a published file; a leading ``module.`` is cut off.

    Raises:
        WeightsError: damaged, without tensors, or a checkpoint of our own training.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored: Any = load_file(path)
        else:
            # The published training scripts store their command line beside the weights.
            with torch.serialization.safe_globals([argparse.Namespace]):
                stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, EOF: a damaged file fails in many ways
        raise WeightsError(
            f"{path}: cannot be read as a checkpoint ({error}); get the file again"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not stored or not _all_tensors(stored.values()):
        raise WeightsError(f"{path}: holds no state dict (names and tensors)")
    if any(key.startswith("network.") for key in stored):
        raise WeightsError(
            f"{path}: is a checkpoint trained by this package; give it as MODEL.WEIGHTS, or to "
            "generate_cams.py as --input, not as MODEL.CLASSIFIER.WEIGHTS"
        )
    return {key.removeprefix("module."): value for key, value in stored.items()}


def _all_tensors(values: Iterable[Any]) -> bool:
    return all(isinstance(value, Tensor) for value in values)


def identify(state: dict[str, Tensor], path: Path) -> str:
    """What a published file is, from its names: a key of the kinds above, or ``IMAGENET``.

    Raises:
        WeightsError: none of them.
    """
    token, head = state.get("cls_token"), state.get("head.weight")
    if "dist_token" in state:
        raise WeightsError(
            f"{path}: is a distilled DeiT, which has a second token; take the plain DeiT instead"
        )
    for part, kind in (
        ("attn_feat_ffn.", "WeakTr v3"),
        ("attn_head_ffn.", "WeakTr v2"),
        ("fc.", "WeakTr v1"),
    ):
        if any(key.startswith(_FUSION + part) for key in state):
            return kind
    if "pos_embed_cls" in state:
        return "MCTformer Plus"
    if head is not None and head.ndim == 4:
        return "MCTformer V2"
    if token is not None and token.ndim == 3:
        if token.shape[1] == 1:
            return IMAGENET
        if head is None:
            return "MCTformer V1"
    raise WeightsError(
        f"{path}: is none of {', '.join(_KINDS)} and {IMAGENET}; its first names are "
        f"{list(state)[:_LISTED]}"
    )


def _check_agreement(
    found: str,
    state: dict[str, Tensor],
    wanted: dict[str, Tensor],
    path: Path,
    *,
    kind: str,
    vit: ClassTokenViT,
) -> None:
    """What the config must say for this file, key by key."""
    key, interp = _KINDS[found]
    if found != kind:
        raise ValueError(
            f"{path}: is a {found} checkpoint, the config describes {kind}; set "
            f"MODEL.CLASSIFIER.NETWORK {found.split()[0]} and {key}"
        )
    channels = len(state["head.weight"]) if "head.weight" in state else _tokens(state)
    if channels != vit.num_channels:
        remedy = f"MODEL.CLASSIFIER.CHANNELS contiguous, MODEL.ROI_HEADS.NUM_CLASSES {channels}"
        if channels == _COCO_ROWS:
            remedy = (
                "MODEL.CLASSIFIER.CHANNELS coco_category_ids (a channel for each COCO category id "
                "from 1 to 90), MODEL.ROI_HEADS.NUM_CLASSES 80"
            )
        raise ValueError(
            f"{path}: has {channels} channels, the config describes {vit.num_channels}; "
            f"set {remedy}"
        )
    gate = f"{_FUSION}{'fc' if found == 'WeakTr v1' else 'attn_head_ffn'}.0.weight"
    if gate in state and len(state[gate]) != len(wanted[gate]):
        raise ValueError(
            f"{path}: its fusion has {len(state[gate])} hidden units, the config describes "
            f"{len(wanted[gate])}; set MODEL.CLASSIFIER.WEAKTR.REDUCTION "
            f"{vit.depth * vit.heads // len(state[gate])}"
        )
    if vit.pos_interp != interp:
        raise ValueError(
            f"{path}: {found} weights need MODEL.CLASSIFIER.POS_INTERP {interp}, with which they "
            f"were trained; the config says {vit.pos_interp}"
        )


def _tokens(state: dict[str, Tensor]) -> int:
    return int(state["cls_token"].shape[1])


def _check_keys(
    state: dict[str, Tensor], wanted: dict[str, Tensor], path: Path, found: str
) -> None:
    missing, surplus = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(set(state) & set(wanted))
        if state[key].shape != wanted[key].shape
    ]
    if missing or surplus or shapes:
        raise WeightsError(
            f"{path}: these {found} weights do not fit. Missing: {_listed(missing)}; superfluous: "
            f"{_listed(surplus)}; other shapes: {_listed(shapes)}. MODEL.CLASSIFIER.VIT must name "
            "the transformer they were made for"
        )


def _from_imagenet(state: dict[str, Tensor], vit: ClassTokenViT, path: Path) -> dict[str, Tensor]:
    """An ImageNet state with C class tokens, positions for our grid, and without its head."""
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    for key in ("cls_token", "pos_embed"):
        if key not in state or state[key].ndim != 3:
            raise WeightsError(f"{path}: has no {key} (1, tokens, channels), expected {IMAGENET}")
    side = vit.patch_embed.grid_size
    try:
        patches = resize_positions(state["pos_embed"][:, 1:].float(), (side[0], side[1]))
    except ValueError as error:
        raise WeightsError(f"{path}: pos_embed does not fit {IMAGENET}: {error}") from error
    classes = state["pos_embed"][:, :1].repeat(1, vit.num_channels, 1)
    state["cls_token"] = state["cls_token"].repeat(1, vit.num_channels, 1)
    if vit.separate_positions:
        del state["pos_embed"]
        return {**state, "pos_embed_cls": classes, "pos_embed_pat": patches}
    return {**state, "pos_embed": torch.cat([classes, patches], dim=1)}


def _listed(entries: list[str]) -> str:
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return f"{', '.join(entries[:_LISTED]) or 'none'}{more}"
