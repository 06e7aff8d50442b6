"""An exponential moving average of weights, and which of its detections become targets."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from weaksam_d2.ops.boxes import pairwise_iou

__all__ = ["ema_decay", "ema_update", "teacher_targets"]

_WARM_UP = 10  # steps: the first updates follow the weights quickly


def ema_decay(decay: float, step: int) -> float:
    """alpha = min(decay, (t + 1) / (t + 10)) of update t = ``step``; 0 (a copy) below 0.

    Source: extras.md, Sec. 4.
    """
    return 0.0 if step < 0 else min(decay, (step + 1) / (step + _WARM_UP))


@torch.no_grad()
def ema_update(average: nn.Module, current: nn.Module, alpha: float) -> None:
    """``average`` ← alpha average + (1 - alpha) current, in place; buffers are copied.

    Both have the same parameters. Source: extras.md, Sec. 4.
    """
    pairs: Iterable[tuple[Tensor, Tensor]] = zip(
        average.parameters(), current.parameters(), strict=True
    )
    for mean, value in pairs:
        # Not lerp: alpha 0 must give the very bits of the current weights.
        mean.mul_(alpha).add_(value.detach(), alpha=1 - alpha)
    for old, new in zip(average.buffers(), current.buffers(), strict=True):
        old.copy_(new)


def teacher_targets(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    tags: Tensor,
    given_boxes: Tensor,
    given_classes: Tensor,
    score_thresh: float,
    iou: float = 0.5,
) -> Tensor:
    """Which detections of the teacher join an image's pseudo boxes.

    One does if its class is among the tags, it scores at least ``score_thresh``, and no pseudo
    box of its class overlaps it with IoU >= ``iou``.

    Args:
        boxes: detections (n, 4), XYXY; scores (n,) and classes (n,).
        scores: see ``boxes``.
        classes: see ``boxes``.
        tags: classes (m,) of the image.
        given_boxes: pseudo boxes (g, 4) in the same pixels, of classes (g,).
        given_classes: see ``given_boxes``.
        score_thresh: least score.
        iou: from here on a detection is the pseudo box once more.

    Returns:
        Mask bool (n,).

    Source: extras.md, Sec. 4.
    """
    keep = (scores >= score_thresh) & torch.isin(classes, tags)
    same = classes[:, None] == given_classes[None, :]
    covered = (pairwise_iou(boxes, given_boxes) >= iou) & same
    return keep & ~covered.any(dim=1)
