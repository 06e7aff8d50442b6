"""Which of SAM's masks are the object of a box ("hierarchical grouping" of the paper)."""

import torch
from torch import Tensor

from weaksam_d2.ops.instance_masks import box_masks

__all__ = ["MODES", "box_overlap", "choose_mask", "group_masks_in_box"]

MODES = ("multimask", "everything", "predicted_iou")
_INSIDE = 0.9  # share of an automatic mask that lies in its box
_COVERED = 0.9  # share of a mask above which it is a part of what was accepted


def box_overlap(masks: Tensor, box: Tensor) -> Tensor:
    """IoU of masks bool (M, H, W) with the filled box (4,): float64 (M,)."""
    filled = box_masks(box[None], (masks.shape[-2], masks.shape[-1])).to(masks.device)
    shared = (masks & filled).sum(dim=(1, 2)).double()
    return shared / (masks | filled).sum(dim=(1, 2)).double()


def choose_mask(
    masks: Tensor, scores: Tensor, box: Tensor, *, mode: str = "multimask", threshold: float = 0.3
) -> tuple[int, tuple[str, ...]]:
    """Which of the candidates of one box prompt is taken, and flags.

    masks: bool (M, H, W). scores: float (M,), predicted IoU. box: float (4,), XYXY half-open
    pixels. ``predicted_iou``: the highest score. ``multimask``: the highest IoU with the filled
    box (at a tie the higher score, then the first); below ``threshold`` the highest score after
    all, with the flag ``low_overlap``: thin objects fill little of their box.
    """
    if mode == "predicted_iou":
        return int(scores.argmax()), ()
    if mode != "multimask":
        raise ValueError(f"one of three masks is chosen by multimask or predicted_iou, not {mode}")
    overlap = box_overlap(masks, box)
    if float(overlap.max()) < threshold:
        return int(scores.argmax()), ("low_overlap",)
    tied = torch.where(overlap == overlap.max(), scores.double(), -torch.inf)
    return int(tied.argmax()), ()


def group_masks_in_box(
    masks: Tensor, scores: Tensor, box: Tensor, *, mode: str = "multimask", threshold: float = 0.3
) -> tuple[Tensor, tuple[str, ...]]:
    """The object's mask bool (H, W), cut off at its box, and flags.

    ``multimask`` and ``predicted_iou`` take one of SAM's masks of the box prompt
    (:func:`choose_mask`). ``everything`` takes automatic masks of the image and joins those that
    lie in the box, the best overlap first; masks (nearly) covered by what was joined are parts
    and change nothing. Flags: ``low_overlap``; ``ungrouped`` where no automatic mask is accepted
    (the mask is empty then, and the box needs a prompt); ``empty_mask``.

    masks: bool (M, H, W). scores: float (M,), predicted IoU. box: float (4,), XYXY half-open
    pixels. threshold: least IoU of a mask and the filled box.

    Raises:
        ValueError: an unknown mode, or no candidates of a prompt.

    Source: wsss.md, Sec. 7.4.
    """
    if mode not in MODES:
        raise ValueError(f"BOXSAM.SEGMENTER.MODE is {mode!r}, allowed: {', '.join(MODES)}")
    filled = box_masks(box[None], (masks.shape[-2], masks.shape[-1]))[0].to(masks.device)
    if mode == "everything":
        joined = _join(masks, scores, box, filled, threshold)
        return joined, () if bool(joined.any()) else ("ungrouped",)
    if not len(masks):
        raise ValueError(f"the mode {mode!r} takes the masks of a box prompt, got none")
    index, flags = choose_mask(masks, scores, box, mode=mode, threshold=threshold)
    mask = masks[index] & filled
    return mask, flags if bool(mask.any()) else (*flags, "empty_mask")


def _join(masks: Tensor, scores: Tensor, box: Tensor, filled: Tensor, threshold: float) -> Tensor:
    joined = torch.zeros_like(filled)
    if not len(masks):
        return joined
    area = masks.sum(dim=(1, 2)).double()
    inside = (masks & filled).sum(dim=(1, 2)).double()
    overlap = box_overlap(masks, box)
    usable = (area > 0) & (inside >= _INSIDE * area) & (overlap >= threshold)
    # By falling overlap, then falling score, then rank: the last sort key counts first.
    order = torch.argsort(scores.double(), descending=True, stable=True)
    order = order[torch.argsort(overlap[order], descending=True, stable=True)]
    for row in order[usable[order]].tolist():
        if int((masks[row] & joined).sum()) < _COVERED * float(area[row]):
            joined = joined | masks[row]
    return joined & filled
