"""Load a SAM checkpoint, and say what it is when it is not what was asked for."""

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_d2.sam.onnx_weights import convert_official, convert_onnx_pair
from weaksam_d2.weights import WeightsError, cache_folder

__all__ = ["CheckpointMismatchError", "guess_arch", "load_checkpoint", "read_checkpoint"]

logger = logging.getLogger(__name__)

_VIT_WIDTH = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
_LISTED_KEYS = 5


class CheckpointMismatchError(WeightsError):
    """The checkpoint belongs to another network than the one that was built."""


def guess_arch(state: dict[str, Tensor]) -> str:
    """Return the ARCH that a state dict looks like ("vit_b", ...), or "unknown"."""
    patches = state.get("image_encoder.patch_embed.proj.weight")
    if patches is not None:
        return _VIT_WIDTH.get(len(patches), "unknown")
    tiny = ("image_encoder.patch_embed.seq.0.c.weight", "image_encoder.patch_embed.conv1.weight")
    return "vit_t" if any(key in state for key in tiny) else "unknown"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a SAM checkpoint.

    Args:
        path: a ``.pth`` or ``.pt`` file, or the folder of MobileSAM's ONNX pair, which is
            converted once and kept beside it.

    Returns:
        State dict for ``segment_anything``'s models, or for ``build_mobile_sam()``.

    Raises:
        WeightsError: the file is damaged or holds no state dict.
    """
    if path.is_dir():
        state = convert_onnx_pair(path)
        if path.parent == cache_folder() / "mobile_sam":
            _keep(state, path.parent / "mobile_sam_converted.pth")
        return state
    try:
        stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, EOF: a damaged file fails in many ways
        raise WeightsError(
            f"{path}: cannot be read as a checkpoint ({error}); delete it and run again, or put "
            "the right file in its place"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise WeightsError(f"{path}: holds no state dict (names and tensors)")
    if "image_encoder.patch_embed.seq.0.c.weight" in stored:
        return convert_official(stored, path)
    return stored


def load_checkpoint(model: nn.Module, path: Path, *, arch: str) -> None:
    """Load a checkpoint into a model, strictly.

    Raises:
        CheckpointMismatchError: keys or shapes differ; lists them, and the ARCH that fits.
        WeightsError: the file is damaged.
    """
    state = read_checkpoint(path)
    wanted = model.state_dict()
    missing, unexpected = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    shapes = [k for k in wanted if k in state and wanted[k].shape != state[k].shape]
    if missing or unexpected or shapes:
        raise CheckpointMismatchError(
            f"{path}: does not fit WEAKSAM.SAM.ARCH '{arch}'; it looks like "
            f"'{guess_arch(state)}'. Missing keys: {_listed(missing)}; unexpected keys: "
            f"{_listed(unexpected)}; other shapes: {_listed(shapes)}. Set ARCH or WEIGHTS so "
            "that they agree"
        )
    model.load_state_dict(state, strict=True)
    model.eval()  # after loading: TinyViT keeps a copy of its attention biases


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _LISTED_KEYS} more" if len(keys) > _LISTED_KEYS else ""
    return f"{keys[:_LISTED_KEYS]}{more}"


def _keep(state: dict[str, Tensor], path: Path) -> None:
    """Write the converted weights for the next time: whole or not at all."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=path.suffix)
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    logger.info("Converted MobileSAM's weights to %s", path)
