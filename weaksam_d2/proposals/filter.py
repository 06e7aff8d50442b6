"""Masks of prompts to proposal boxes: thresholds, NMS, merging (weaksam.md, Sec. 4.2-4.4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weaksam_d2.ops.boxes import clip_boxes, deduplicate, valid_boxes
from weaksam_d2.ops.nms import nms, unscored_nms

__all__ = ["Candidates", "FilterSettings", "clean_boxes", "filter_masks", "merge_sources"]


class Candidates(NamedTuple):
    """Boxes of masks: float boxes (n, 4) XYXY absolute, predicted IoU (n,), stability (n,).

    ``masks``: int64 (n,), which mask each box is of, or None where nobody asks.
    """

    boxes: Tensor
    quality: Tensor
    stability: Tensor
    masks: Tensor | None = None

    def select(self, index: Tensor) -> "Candidates":
        """The rows of an int64 or bool index."""
        masks = None if self.masks is None else self.masks[index]
        return Candidates(self.boxes[index], self.quality[index], self.stability[index], masks)


@dataclass(frozen=True)
class FilterSettings:
    """What one prompt source keeps; ``by_quality``: NMS by predicted IoU, else in prompt order."""

    mask_indices: tuple[int, ...] = (1, 2)
    quality: float = 0.0
    stability: float = 0.0
    nms: float = 1.0
    by_quality: bool = False

    @classmethod
    def from_node(cls, node: Any, *, by_quality: bool) -> "FilterSettings":
        """From a config node such as ``WEAKSAM.PROPOSALS.GRID``."""
        return cls(
            mask_indices=tuple(node.MASK_INDICES),
            quality=node.QUALITY_THRESH,
            stability=node.STABILITY_THRESH,
            nms=node.NMS_THRESH,
            by_quality=by_quality,
        )

    def __call__(self, boxes: Tensor, quality: Tensor, stability: Tensor) -> Candidates:
        """Thresholds, then NMS, of one source's masks (see :func:`filter_masks`)."""
        kept = self.passing(boxes, quality, stability)
        if self.nms >= 1 or not len(kept.boxes):
            return kept
        if self.by_quality:
            return kept.select(nms(kept.boxes, kept.quality, self.nms))
        return kept.select(unscored_nms(kept.boxes, self.nms))

    def passing(self, boxes: Tensor, quality: Tensor, stability: Tensor) -> Candidates:
        """Thresholds alone."""
        return filter_masks(
            boxes,
            quality,
            stability,
            mask_indices=self.mask_indices,
            quality_thresh=self.quality,
            stability_thresh=self.stability,
        )


def filter_masks(
    boxes: Tensor,
    quality: Tensor,
    stability: Tensor,
    *,
    mask_indices: Sequence[int],
    quality_thresh: float = 0.0,
    stability_thresh: float = 0.0,
) -> Candidates:
    """The boxes of P prompts' M masks that pass, prompt by prompt, masks in the order given.

    boxes: float (P, M, 4), NaN where the mask is empty; quality and stability: float (P, M). The
    result's ``masks`` are rows of the P * M masks.
    Kept are masks of mask_indices that are not empty, with predicted IoU above quality_thresh
    and stability of at least stability_thresh; a threshold of 0 is off (the models predict
    values below 0 too). A stability of 0/0 (NaN) fails a threshold.

    Raises:
        ValueError: a mask index that the prompts do not have.

    Source: weaksam.md, Sec. 4.2 and 4.3; SamAutomaticMaskGenerator for the grid.
    """
    indices = torch.as_tensor(tuple(mask_indices), dtype=torch.int64, device=boxes.device)
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < boxes.shape[1]:
        raise ValueError(
            f"MASK_INDICES {tuple(mask_indices)} of a source, but its prompts give "
            f"{boxes.shape[1]} masks; allowed: 0 to {boxes.shape[1] - 1}"
        )
    rows = Candidates(
        boxes[:, indices].flatten(0, 1),
        quality[:, indices].flatten(),
        stability[:, indices].flatten(),
        torch.arange(stability.numel(), device=boxes.device)
        .view_as(stability)[:, indices]
        .flatten(),
    )
    keep = ~rows.boxes.isnan().any(dim=1)
    if quality_thresh > 0:
        keep &= rows.quality > quality_thresh
    if stability_thresh > 0:
        keep &= rows.stability >= stability_thresh
    return rows.select(keep)


def clean_boxes(
    boxes: Tensor, size: tuple[int, int], *, step: float, max_boxes: int, nms: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Clip, drop degenerate and repeated boxes, NMS, cap; -> (boxes (n, 4), index into the input).

    Boxes that are equal after rounding to step pixels (0: no such rule) are repeated, the first
    one stays. nms: boxes whose IoU with an earlier one is above it go (1: off). Beyond max_boxes
    the last ones go (0: no limit).

    Source: weaksam.md, Sec. 4.4.
    """
    index = torch.nonzero(boxes.isfinite().all(dim=1))[:, 0]
    boxes = clip_boxes(boxes[index], size)
    valid = valid_boxes(boxes, size)
    boxes, index = boxes[valid], index[valid]
    if step > 0 and len(boxes):
        first = deduplicate(boxes, step)
        boxes, index = boxes[first], index[first]
    if nms < 1 and len(boxes):
        kept = unscored_nms(boxes, nms)
        boxes, index = boxes[kept], index[kept]
    count = max_boxes or len(boxes)
    return boxes[:count], index[:count]


def merge_sources(
    parts: Sequence[tuple[int, Candidates]],
    size: tuple[int, int],
    *,
    step: float = 1 / 16,
    max_boxes: int = 2000,
    nms: float = 1.0,
) -> tuple[Candidates, Tensor]:
    """Join (source row, candidates) pairs in their order; -> (candidates, sources uint8 (n,)).

    Boxes are cleaned as in :func:`clean_boxes`: nms acts across the sources, an earlier source
    wins; the cap takes from the end: cross first, then fine, coarse and grid.

    Source: weaksam.md, Sec. 4.4.
    """
    if not parts:
        empty = Candidates(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0))
        return empty, torch.zeros(0, dtype=torch.uint8)
    masks = [part.masks for _, part in parts if part.masks is not None]
    joined = Candidates(
        torch.cat([part.boxes for _, part in parts]),
        torch.cat([part.quality for _, part in parts]),
        torch.cat([part.stability for _, part in parts]),
        torch.cat(masks) if len(masks) == len(parts) else None,
    )
    rows = [torch.full((len(part.boxes),), row, dtype=torch.uint8) for row, part in parts]
    boxes, index = clean_boxes(joined.boxes, size, step=step, max_boxes=max_boxes, nms=nms)
    return joined.select(index)._replace(boxes=boxes), torch.cat(rows)[index.cpu()]
