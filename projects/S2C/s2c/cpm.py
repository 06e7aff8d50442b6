"""The formulas of the CAM-based Prompting Module: CAM, self-label, loss (S2C, Sec. 3.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["IGNORE", "SelfLabelRule", "cpm_loss", "multi_scale_cams", "self_label"]

IGNORE = 255  # of a self-label: the pixel teaches nothing
_EPS = 1e-5  # added to the maximum that a map is divided by


@torch.no_grad()
def multi_scale_cams(
    activate: Callable[[Tensor], Tensor],
    images: Tensor,
    classes: Sequence[Tensor],
    *,
    scales: Sequence[float],
    valid: Tensor,
) -> list[Tensor]:
    """Activation maps of the present classes, summed over scales (wsss.md, Sec. 6.4, item 1).

    activate: normalized images (N, 3, h, w) to signed class activations (N, C, h', w'). images:
    float (N, 3, H, W). classes: int64 (K_i,) for each image. valid: bool (N, H, W), False where
    the crop has no image. Returns float32 (K_i, H, W) for each image, maximum about 1, 0 outside
    of the image; a map that is nowhere positive is zero.
    """
    size = (images.shape[-2], images.shape[-1])
    totals = [images.new_zeros((len(present), *size)) for present in classes]
    for scale in scales:
        view = tuple(max(1, round(scale * side)) for side in size)
        resized = F.interpolate(images, size=view, mode="bilinear", align_corners=True)
        maps = activate(resized).float()
        for total, row, present in zip(totals, maps, classes, strict=True):
            if len(present):
                total += F.interpolate(row[present][None], size=size, mode="bilinear")[0].relu_()
    cams = []
    for total, inside in zip(totals, valid, strict=True):
        total.masked_fill_(~inside, 0.0)
        cams.append(total / (total.amax(dim=(-2, -1), keepdim=True) + _EPS))
    return cams


@dataclass(frozen=True)
class SelfLabelRule:
    """How masks become a label map.

    tau: background where the best confidence is below it; None: only where no class proposes.
    confidence: of a mask's pixels, ``sam_cam`` (SAM's times the mean activation in the mask),
    ``sam``, or ``none`` (1). sam_confidence: SAM's, ``logit`` of the mask or its ``sigmoid``.
    background: a pixel may be background; else such a pixel is ignored.

    Raises:
        ValueError: an unknown confidence.
    """

    tau: float | None = 0.5
    confidence: str = "sam_cam"
    sam_confidence: str = "logit"
    background: bool = True

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("CPM_CONF", self.confidence, ("sam_cam", "sam", "none")),
            ("SAM_CONF", self.sam_confidence, ("logit", "sigmoid")),
        ):
            if value not in allowed:
                raise ValueError(f"MODEL.S2C.{key} is {value!r}, allowed: {', '.join(allowed)}")


def self_label(
    cams: Tensor,
    masks: Tensor,
    logits: Tensor,
    classes: Tensor,
    *,
    rule: SelfLabelRule,
    valid: Tensor | None = None,
) -> Tensor:
    """The label map that the masks of an image's classes make (wsss.md, Sec. 6.4, items 4-6).

    cams: float (K, H, W), maximum about 1. masks: bool (K, H, W); an empty one proposes nothing.
    logits: float (K, H, W), of the masks. classes: int64 (K,), rising. valid: bool (H, W), False
    for pixels outside of the image. Returns int64 (H, W): 0 background, class + 1, or 255 outside
    of the image, and everywhere if no class proposes anything. Equal confidences: the lower class.
    """
    size = cams.shape[-2:]
    proposes = masks.flatten(1).any(dim=1)
    if not bool(proposes.any()):
        return torch.full(size, IGNORE, dtype=torch.int64, device=cams.device)
    alpha = _confidence(cams, masks, logits, rule).masked_fill(~masks, float("-inf"))
    best, winner = alpha.max(dim=0)
    background = best == float("-inf")
    if rule.tau is not None:
        background |= best < rule.tau
    label = (classes.to(cams.device)[winner] + 1).masked_fill_(
        background, 0 if rule.background else IGNORE
    )
    return label if valid is None else label.masked_fill_(~valid, IGNORE)


def _confidence(cams: Tensor, masks: Tensor, logits: Tensor, rule: SelfLabelRule) -> Tensor:
    if rule.confidence == "none":
        return torch.ones_like(cams)
    sam = logits.sigmoid() if rule.sam_confidence == "sigmoid" else logits
    if rule.confidence == "sam":
        return sam
    area = masks.sum(dim=(-2, -1)).clamp(min=1)
    activation = (cams * masks).sum(dim=(-2, -1)) / area
    return sam * activation[:, None, None]


def cpm_loss(
    activations: Tensor, labels: Tensor, classes: Sequence[Tensor], *, background: bool = True
) -> Tensor:
    """Cross entropy of the normalized maps with the self-labels (wsss.md, Sec. 6.4, item 7).

    activations: signed A, float (N, C, h, w). labels: int64 (N, H, W) of :func:`self_label`.
    classes: int64 (K_i,) present ones of each image. The present maps, ReLU, divided by their own
    maximum and upsampled, are the logits as they are; absent classes have logit 0, background has
    1 - the largest (no such channel without ``background``). Returns the mean over the pixels that
    have a label, float32 scalar; 0 and still part of the graph if none has.

    NOTE: values lie in [0, 1], so this loss does not approach 0. It is the published one.
    """
    activations = activations.float()
    total = activations.sum() * 0.0
    counted = int((labels != IGNORE).sum())
    for maps, label, present in zip(activations, labels, classes, strict=True):
        if len(present) and bool((label != IGNORE).any()):
            total = total + _image_loss(maps, label, present, background)
    return total / max(1, counted)


def _image_loss(maps: Tensor, label: Tensor, present: Tensor, background: bool) -> Tensor:
    positive = maps[present].relu()
    scaled = positive / (positive.amax(dim=(-2, -1), keepdim=True) + _EPS)
    size = (label.shape[-2], label.shape[-1])
    if scaled.shape[-2:] != size:
        scaled = F.interpolate(scaled[None], size=size, mode="bilinear", align_corners=False)[0]
    channels = scaled
    if background:
        channels = torch.cat([1 - scaled.amax(dim=0, keepdim=True), scaled])
    # The absent classes' channels are 0 and equal: their number is enough.
    partition = (channels.exp().sum(dim=0) + (len(maps) - len(present))).log()
    table = torch.full((len(maps) + 1,), 0, dtype=torch.int64, device=maps.device)
    table[present + 1] = torch.arange(len(present), device=maps.device) + int(background)
    counted = label != IGNORE
    channel = table[label.masked_fill(~counted, 0)]
    chosen = channels.gather(0, channel[None])[0]
    return (partition - chosen)[counted].sum()
