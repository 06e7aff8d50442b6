"""Boxes to masks: SAM prompted with the boxes of one image, or stored masks of the same boxes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from weaksam_d2.artifacts import Prompts, Proposals
from weaksam_d2.ops.instance_masks import (
    MULTIMASK_MODES,
    FittedMasks,
    choose_masks,
    fit_masks,
    same_boxes,
)
from weaksam_d2.ops.masks import decode_rle, encode_rle, masks_to_boxes
from weaksam_d2.sam import Embedding, SamBackend

__all__ = ["BoxMasks", "MaskSettings", "boxes_to_masks", "build_mask_settings", "stored_masks"]

_BOX_SOURCES = ("pgt", "mask")
_CHUNK = 64  # stored masks decoded at a time


@dataclass(frozen=True)
class MaskSettings:
    """How a box gets its mask (``WEAKSAM.INSTANCE_MASKS``).

    multimask: ``single`` mask of SAM, or of three the ``best_of_3`` by predicted IoU or the one
    with the ``best_box``. box: an annotation keeps the ``pgt`` box or takes that of its ``mask``.
    clip: masks end at their boxes.

    Raises:
        ValueError: another value. Source: weaksam.md, Sec. 8.1.
    """

    multimask: str = "single"
    box: str = "pgt"
    clip: bool = False

    def __post_init__(self) -> None:
        for key, value, known in (
            ("MULTIMASK", self.multimask, MULTIMASK_MODES),
            ("BOX", self.box, _BOX_SOURCES),
        ):
            if value not in known:
                raise ValueError(
                    f"WEAKSAM.INSTANCE_MASKS.{key} is {value!r}, expected one of {list(known)}"
                )

    def parameters(self) -> dict[str, Any]:
        """As JSON values."""
        return {"multimask": self.multimask, "box": self.box, "clip": self.clip}


@dataclass(frozen=True)
class BoxMasks:
    """Masks of n boxes of one image, in their order.

    ``codes`` are compressed COCO run-length counts; ``boxes`` float32 (n, 4) the tight boxes of
    the masks, XYXY half-open; ``fallback`` and ``inside`` (n,) as ``ops.FittedMasks``.
    """

    codes: tuple[bytes, ...]
    boxes: np.ndarray
    fallback: np.ndarray
    inside: np.ndarray

    @classmethod
    def join(cls, parts: Sequence["BoxMasks"]) -> "BoxMasks":
        """The masks of all parts, one part after the other."""
        return cls(
            tuple(code for part in parts for code in part.codes),
            np.concatenate([np.zeros((0, 4), np.float32), *(part.boxes for part in parts)]),
            np.concatenate([np.zeros(0, bool), *(part.fallback for part in parts)]),
            np.concatenate([np.zeros(0, np.float32), *(part.inside for part in parts)]),
        )

    def take(self, index: np.ndarray) -> "BoxMasks":
        """The masks at int64 ``index``, in that order."""
        codes = tuple(self.codes[i] for i in index.tolist())
        return BoxMasks(codes, self.boxes[index], self.fallback[index], self.inside[index])


def build_mask_settings(cfg: CfgNode) -> MaskSettings:
    """The settings of ``WEAKSAM.INSTANCE_MASKS``."""
    node: Mapping[str, Any] = cfg.WEAKSAM.INSTANCE_MASKS
    return MaskSettings(node["MULTIMASK"], node["BOX"], bool(node["CLIP"]))


def boxes_to_masks(
    boxes: np.ndarray, embedding: Embedding, backend: SamBackend, *, settings: MaskSettings
) -> BoxMasks:
    """Masks of boxes float32 (n, 4), XYXY in pixels of the encoded image, each one a prompt.

    No more full-size masks are held than those of one chunk of the backend. Masks may overlap and
    leave their boxes; an empty one becomes the filled box.

    Raises:
        ValueError: a backend that gives no masks. Source: weaksam.md, Sec. 8.1.
    """
    array = np.asarray(boxes, np.float32).reshape(-1, 4)
    return BoxMasks.join(
        [
            _coded(fit_masks(masks, box, clip=settings.clip))
            for masks, box in _decoded(array, embedding, backend, settings.multimask)
        ]
    )


def _decoded(
    boxes: np.ndarray, embedding: Embedding, backend: SamBackend, multimask: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chosen masks bool (P, H, W) of each chunk, and its boxes."""
    if not len(boxes):
        return
    chunks = backend.decode(
        embedding,
        _box_prompts(boxes),
        want=frozenset({"masks"}),
        multimask=multimask != "single",
    )
    done = 0
    for chunk in chunks:
        if chunk.masks is None:
            raise ValueError(f"the SAM backend {type(backend).__name__} gives no masks")
        box = torch.from_numpy(boxes[chunk.start : chunk.start + len(chunk.masks)])
        best = choose_masks(chunk.masks, chunk.quality, box, multimask)
        done += len(box)
        yield chunk.masks[torch.arange(len(best), device=best.device), best], box
    assert done == len(boxes), "a SAM backend must give each prompt's masks once"


def _box_prompts(boxes: np.ndarray) -> Prompts:
    count = len(boxes)
    return Prompts(
        points=np.zeros((0, 2), np.float32),
        offsets=np.zeros(count + 1, np.int64),
        scores=np.ones(count, np.float32),
        classes=np.full(count, -1),
        sources=np.zeros(count, np.uint8),
        source_names=("Box",),
        boxes=boxes,
    )


def stored_masks(
    boxes: np.ndarray, stored: Proposals, *, settings: MaskSettings
) -> tuple[np.ndarray, BoxMasks]:
    """Masks that a proposal store holds for boxes float32 (n, 4).

    Returns which boxes they are of, int64 (m,), and their m masks.

    Raises:
        ValueError: proposals without masks.
    """
    if stored.masks is None:
        raise ValueError(
            "WEAKSAM.INSTANCE_MASKS.REUSE_STORED needs proposals with masks; generate them with "
            "WEAKSAM.PROPOSALS.SAVE_MASKS True"
        )
    given = torch.from_numpy(np.asarray(boxes, np.float32).reshape(-1, 4))
    row = same_boxes(given, torch.from_numpy(np.array(stored.boxes, np.float32))).numpy()
    found = np.flatnonzero(row >= 0)
    parts = []
    for start in range(0, len(found), _CHUNK):
        chunk = found[start : start + _CHUNK]
        codes = [stored.masks[i] for i in row[chunk].tolist()]
        masks = torch.from_numpy(decode_rle(codes, stored.image_size))
        parts.append(_coded(fit_masks(masks, given[torch.from_numpy(chunk)], clip=settings.clip)))
    return found, BoxMasks.join(parts)


def _coded(fitted: FittedMasks) -> BoxMasks:
    return BoxMasks(
        tuple(encode_rle(fitted.masks)),
        masks_to_boxes(fitted.masks).cpu().numpy(),
        fitted.fallback.cpu().numpy(),
        fitted.inside.cpu().numpy(),
    )
