"""Published DINO checkpoints, loaded strictly (extras.md, Sec. 1.4)."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.cams.checkpoints import read_state
from weaksam_d2.weights import WeightsError, resolve_weights

from .checkpoint_names import FAMILIES, Names, family_of, rename

if TYPE_CHECKING:
    from .network import DINONetwork

__all__ = ["load_dino_checkpoint"]

logger = logging.getLogger(__name__)

_COCO_ROWS = 91  # of IDEA's class heads: one for each category id from 0 to 90
_SHOWN = 10


def load_dino_checkpoint(
    model: "DINONetwork", source: str | Path | Mapping[str, Tensor]
) -> list[str]:
    """Load a checkpoint of detrex or of the authors (IDEA-Research) into a model, in place.

    Class heads and class embeddings of another number of classes stay as they are; IDEA's COCO
    heads, with a row for each category id, fit 80 classes. Everything else must be there, with
    its shape, and nothing more.

    Args:
        model: is changed only if all fits.
        source: file, URL, or the names and tensors themselves.

    Returns:
        Names that were left as they are, because the file has other classes.

    Raises:
        WeightsError: no such file; not one of the families; missing or superfluous names, other
            shapes, copies of a head that differ.
    """
    where, state = _read(source)
    family = family_of(state)
    if family is None:
        raise WeightsError(
            f"{where}: is no DINO checkpoint of {' or '.join(FAMILIES.values())} (one has names "
            f"with {' or '.join(repr(part) for part in FAMILIES)}); its first names are "
            f"{list(state)[:_SHOWN]}. A checkpoint of this package is MODEL.WEIGHTS"
        )
    names = Names(len(model.decoder.layers), len(model.neck.convs))
    try:
        loaded = rename(state, family, names)
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith("criterion.")}
    left = _fit_classes(loaded, wanted, family)
    _check(where, loaded, wanted)
    with torch.no_grad():
        for name, value in loaded.items():
            wanted[name].copy_(value)
    logger.info("%s: DINO weights (%s) loaded%s", where, family, _left(left))
    return left


def _read(source: str | Path | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    if not isinstance(source, Mapping):
        path = resolve_weights(str(source))
        return str(path), read_state(path)
    return "state dict", {name.removeprefix("module."): value for name, value in source.items()}


def _fit_classes(loaded: dict[str, Tensor], wanted: dict[str, Tensor], family: str) -> list[str]:
    """Rows of our classes, in place; names (now the model's) of what has other classes."""
    affected = [k for k in wanted if k.startswith("class_embed.") or k == "label_enc.weight"]
    head = loaded.get("class_embed.0.bias")
    if head is None:
        return []  # missing: named with all that is missing
    classes = len(wanted["class_embed.0.bias"])
    if family == "IDEA" and len(head) == _COCO_ROWS and classes != _COCO_ROWS:
        ids = torch.tensor(_coco_ids())
        for name in affected:
            if name in loaded:
                loaded[name] = loaded[name][ids]
    elif len(head) == classes and len(loaded.get("label_enc.weight", [])) == classes + 1:
        loaded["label_enc.weight"] = loaded["label_enc.weight"][:classes]  # the last: "unknown"
    if len(loaded["class_embed.0.bias"]) == classes:
        return []
    loaded.update({name: wanted[name] for name in affected if name in loaded})
    return affected


def _coco_ids() -> list[int]:
    """COCO's category id of each of its 80 classes."""
    things = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    return CategoryMap.from_categories(things).dataset_ids


def _check(where: str, loaded: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    missing, surplus = sorted(set(wanted) - set(loaded)), sorted(set(loaded) - set(wanted))
    shapes = [
        f"{name} {tuple(loaded[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(loaded) & set(wanted))
        if loaded[name].shape != wanted[name].shape
    ]
    if missing or surplus or shapes:
        raise WeightsError(
            f"{where}: does not fit. Missing: {_listed(missing)}; superfluous: "
            f"{_listed(surplus)}; other shapes: {_listed(shapes)}. The keys of MODEL.DINO and the "
            "backbone must describe the published model"
        )


def _left(names: list[str]) -> str:
    if not names:
        return ""
    return f"; other classes, so these stay at their initialization: {', '.join(names)}"


def _listed(entries: Iterable[str]) -> str:
    entries = list(entries)
    more = f" and {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return f"{', '.join(entries[:_SHOWN]) or 'none'}{more}"
