"""Published Mask2Former checkpoints, loaded strictly (extras.md, Sec. 2.1)."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from weaksam_d2.artifacts import load_plain_pickle
from weaksam_d2.cams.checkpoints import read_state
from weaksam_d2.weights import WeightsError, resolve_weights

from .checkpoint_names import HUB, family_of, hub_name, official_name

__all__ = ["load_published", "normalized"]

logger = logging.getLogger(__name__)

_LISTED = 10
_CLASS_HEAD = "predictor.class_predictor."
# Not weights: a loss's constant, counters, tables of indices and the pixels' mean.
_IGNORED = (
    "criterion.empty_weight",
    "relative_position_index",
    "num_batches_tracked",
    "pixel_mean",
    "pixel_std",
)


def load_published(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> list[str]:
    """Load an official checkpoint, or one of transformers, into a Mask2Former, in place.

    A class head of another number of classes stays as it is. Everything else must be there, with
    its shape, and nothing more.

    Args:
        model: is changed only if all fits.
        source: file (``.pkl``, ``.pth``, ``.safetensors``), URL, or the names and tensors.

    Returns:
        Names that were left at their initial values, because the file has other classes.

    Raises:
        WeightsError: no such file, other names, names missing or superfluous, other shapes.
    """
    where = "the checkpoint" if isinstance(source, Mapping) else str(resolve_weights(str(source)))
    state = normalized(source if isinstance(source, Mapping) else _read(Path(where)))
    try:
        family = family_of(state)
    except ValueError as error:
        raise WeightsError(
            f"{where} {error}. A checkpoint of our own training is MODEL.WEIGHTS"
        ) from error
    found, missing, surplus, shapes = _assign(state, model.state_dict(), family)
    kept = [entry for entry in shapes if entry.startswith(_CLASS_HEAD)]
    shapes = [entry for entry in shapes if entry not in kept]
    if missing or surplus or shapes:
        raise WeightsError(
            f"{where}: these weights of Mask2Former ({family}) do not fit. Missing: "
            f"{_shown(missing)}; superfluous: {_shown(surplus)}; other shapes: {_shown(shapes)}. "
            "The backbone and MODEL.MASK2FORMER must describe the network they were made for"
        )
    model.load_state_dict(found, strict=False)
    left = [name for name in model.state_dict() if name.startswith(_CLASS_HEAD) and kept]
    if left:
        logger.warning("%s has other classes; left at their initial values: %s", where, kept)
    logger.info("%s: %s weights of Mask2Former loaded", where, family)
    return left


def normalized(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what is not a weight; names of version 1 become those of version 2."""
    head = "sem_seg_head."
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("module.")
        if name.endswith(_IGNORED):
            continue
        if name.startswith(head) and not name.startswith((f"{head}predictor.", f"{head}pixel_")):
            name = f"{head}pixel_decoder.{name.removeprefix(head)}"
        renamed[name.replace(".predictor.static_query.", ".predictor.query_feat.")] = value
    return renamed


def _assign(
    state: dict[str, Tensor], wanted: Mapping[str, Tensor], family: str
) -> tuple[dict[str, Tensor], list[str], list[str], list[str]]:
    """Our names with the file's values; and what is missing, superfluous or of another shape."""
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    missing, shapes = [], []
    for name, own in wanted.items():
        if name.endswith(_IGNORED):
            continue
        theirs, third = _name(name, family)
        value = state.get(theirs)
        if value is None:
            missing.append(theirs)
            continue
        used.add(theirs)
        if third is not None:
            value = value[third * len(own) : (third + 1) * len(own)] if value.ndim else value
        if value.shape != own.shape:
            shapes.append(f"{name} {tuple(value.shape)} instead of {tuple(own.shape)}")
        else:
            found[name] = value
    return found, missing, sorted(set(state) - used), shapes


def _name(name: str, family: str) -> tuple[str, int | None]:
    try:
        return hub_name(name) if family == HUB else official_name(name)
    except KeyError:  # a backbone that transformers' Mask2Former does not have
        return f"({name})", None


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".pkl":
        return read_state(path)
    try:
        stored = load_plain_pickle(path)  # the official files are pickles, which could run code
        stored = stored.get("model", stored)
        return {name: torch.as_tensor(value) for name, value in stored.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: holds no names and arrays ({error})") from error


def _shown(entries: list[str]) -> str:
    more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return f"{', '.join(entries[:_LISTED]) or 'none'}{more}"
