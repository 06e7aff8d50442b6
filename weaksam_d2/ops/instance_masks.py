"""Masks that stand for boxes: which of SAM's is taken, how it fits, what an empty one becomes."""

from typing import NamedTuple

import torch
from torch import Tensor

from weaksam_d2.ops.masks import masks_to_boxes

__all__ = ["MULTIMASK_MODES", "FittedMasks", "box_masks", "choose_masks", "fit_masks", "same_boxes"]

MULTIMASK_MODES = ("single", "best_of_3", "best_box")
_SAME = 0.5  # pixels


class FittedMasks(NamedTuple):
    """Masks bool (n, H, W), none of them empty, and what was seen of the ones given.

    ``fallback`` bool (n,): the mask was empty, the box is filled instead. ``inside`` float32 (n,):
    share of the mask that lies in its box, before clipping; NaN where it was empty.
    """

    masks: Tensor
    fallback: Tensor
    inside: Tensor


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the filled boxes: the pixels whose centers they hold.

    boxes: float (n, 4), XYXY half-open pixels. size: (height, width). Returns bool (n, H, W). A
    box that holds no center of a pixel gets the one pixel in which its own center lies.
    """
    height, width = size
    columns = _covered(boxes[:, 0], boxes[:, 2], width)
    rows = _covered(boxes[:, 1], boxes[:, 3], height)
    return rows[:, :, None] & columns[:, None, :]


def fit_masks(masks: Tensor, boxes: Tensor, *, clip: bool = False) -> FittedMasks:
    """Judge each mask by its box, cut it off there if asked, and fill the box where it is empty.

    masks: bool (n, H, W). boxes: float (n, 4), XYXY half-open pixels.

    Source: WeakSAM, Sec. 3.5; weaksam.md, Sec. 8.1.
    """
    filled = box_masks(boxes.to(masks.device), (masks.shape[1], masks.shape[2]))
    both = masks & filled
    inside = both.sum(dim=(1, 2)).float() / masks.sum(dim=(1, 2)).float()  # 0 / 0 is NaN
    chosen = both if clip else masks
    fallback = ~chosen.flatten(1).any(dim=1)
    return FittedMasks(torch.where(fallback[:, None, None], filled, chosen), fallback, inside)


def choose_masks(masks: Tensor, quality: Tensor, boxes: Tensor, mode: str) -> Tensor:
    """Return which of the masks of each prompt is taken, int64 (P,).

    masks: bool (P, M, H, W). quality: float (P, M), predicted IoU. boxes: float (P, 4), XYXY
    half-open pixels. ``single``: the only one; ``best_of_3``: the highest quality; ``best_box``:
    the mask whose tight box has the highest IoU with the box, at a tie the first of them.

    Raises:
        ValueError: another mode, or ``single`` with several masks.
    """
    if mode not in MULTIMASK_MODES:
        raise ValueError(f"the mask of a box is chosen by one of {MULTIMASK_MODES}, got {mode!r}")
    if mode == "single":
        if masks.shape[1] != 1:
            raise ValueError(f"'single' takes one mask for each prompt, got {masks.shape[1]}")
        return torch.zeros(len(masks), dtype=torch.int64, device=masks.device)
    if mode == "best_of_3":
        return quality.argmax(dim=1)
    tight = masks_to_boxes(masks)
    given = boxes.to(tight)[:, None]
    corner = torch.minimum(tight[..., 2:], given[..., 2:])
    shared = (corner - torch.maximum(tight[..., :2], given[..., :2])).clamp(min=0).prod(dim=-1)
    areas = ((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (tight, given))
    iou = shared / (sum(areas) - shared)
    return iou.nan_to_num(nan=-1.0).argmax(dim=1)  # an empty mask has no box


def same_boxes(boxes: Tensor, stored: Tensor) -> Tensor:
    """Return for each box the row of the stored one that is equal to it, int64 (n,); -1: none.

    boxes (n, 4), stored (m, 4): float, XYXY. Equal means that no coordinate differs by half a pixel
    or more: stored boxes are tight ones of masks, their corners whole pixels, and a box that went
    through a detector has the rounding errors of two resizes.
    """
    if not len(boxes) or not len(stored):
        return torch.full((len(boxes),), -1, dtype=torch.int64)
    distance, row = (boxes[:, None] - stored[None]).abs().amax(dim=-1).min(dim=1)
    return torch.where(distance < _SAME, row, -1)


def _covered(low: Tensor, high: Tensor, length: int) -> Tensor:
    """Pixels (n, length) of a line whose centers lie in [low, high); at least one each."""
    index = torch.arange(length, device=low.device)
    center = index + 0.5
    inside = (center >= low[:, None]) & (center < high[:, None])
    middle = ((low + high) / 2).floor().clamp(0, length - 1).long()
    return torch.where(inside.any(dim=1, keepdim=True), inside, index == middle[:, None])
