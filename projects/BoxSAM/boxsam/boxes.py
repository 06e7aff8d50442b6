"""A detector's raw outputs to the boxes of classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.ops import pairwise_iou
from weaksam_d2.ops.nms import batched_nms

__all__ = ["BoxSettings", "ClassBoxes", "class_scores", "select_boxes", "to_pixels"]

_MIN_SIDE = 2.0  # pixels


@dataclass(frozen=True)
class ClassBoxes:
    """Boxes of one image by falling score; ``bad`` ones were not finite and left out.

    boxes: float32 (n, 4), XYXY, clipped. scores: float32 (n,). classes: int64 (n,), contiguous.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    bad: int = 0

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def none(cls) -> "ClassBoxes":
        """No box at all."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class BoxSettings:
    """What becomes of a detector's boxes (``BOXSAM.DETECTOR``).

    box_threshold: a box scores above it. nms: IoU above which the worse box of a class goes.
    cross_class_nms: IoU from which on the worse box of another class goes. max_boxes of an image.

    Raises:
        ValueError: a threshold outside of its range.
    """

    box_threshold: float = 0.3
    nms: float = 0.7
    cross_class_nms: float = 0.9
    max_boxes: int = 100

    def __post_init__(self) -> None:
        if not 0 <= self.box_threshold < 1 or not 0 <= self.nms <= 1 or self.cross_class_nms <= 0:
            raise ValueError(
                f"BOXSAM.DETECTOR has BOX_THRESHOLD {self.box_threshold}, NMS {self.nms} and "
                f"CROSS_CLASS_NMS {self.cross_class_nms}; expected 0 <= BOX_THRESHOLD < 1, "
                "0 <= NMS <= 1 and CROSS_CLASS_NMS above 0"
            )
        if self.max_boxes < 1:
            raise ValueError(f"BOXSAM.DETECTOR.MAX_BOXES is {self.max_boxes}, expected 1 or more")


def class_scores(token_probs: Tensor, spans: Sequence[Sequence[int]]) -> Tensor:
    """Score of each class: the maximum over its tokens.

    token_probs: float (Q, T), sigmoid of a query's logits. spans: tokens of each of K classes.
    Returns float (Q, K). Source: wsss.md, Sec. 7.3.
    """
    return torch.stack([token_probs[:, list(span)].amax(dim=1) for span in spans], dim=1)


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Center, width and height in [0, 1] (Q, 4) to XYXY in pixels of an image (height, width)."""
    scale = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([center - half, center + half], dim=1) * scale


def select_boxes(
    boxes: Tensor,
    scores: Tensor,
    classes: Sequence[int],
    size: tuple[int, int],
    settings: BoxSettings,
) -> ClassBoxes:
    """Boxes of the classes: each query's best class, thresholds, clipping, suppression.

    boxes: float (Q, 4), XYXY in pixels, not clipped. scores: float (Q, K). classes: the K
    contiguous classes. size: (height, width). Boxes with a side below two pixels after clipping
    go. Of overlapping boxes of different classes the better one stays; at a tie the lower class.

    Source: wsss.md, Sec. 7.3 and 7.5.
    """
    if not len(classes):
        return ClassBoxes.none()
    ids = torch.tensor(list(classes), dtype=torch.int64)
    order = torch.argsort(ids)  # a query's tie goes to the lower class
    best, place = scores.double().cpu()[:, order].max(dim=1)
    kind = ids[order][place]
    boxes = boxes.double().cpu()
    wanted = best > settings.box_threshold
    finite = boxes.isfinite().all(dim=1)
    bad = int((wanted & ~finite).sum())
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float64)
    clipped = torch.minimum(boxes.nan_to_num().clamp(min=0), limit)
    sides = clipped[:, 2:] - clipped[:, :2]
    rows = (wanted & finite & (sides >= _MIN_SIDE).all(dim=1)).nonzero()[:, 0]
    rows = rows[batched_nms(clipped[rows], best[rows], kind[rows], settings.nms)]
    rows = _one_class_each(clipped, best, kind, rows, settings.cross_class_nms)
    rows = rows[: settings.max_boxes]
    return ClassBoxes(
        clipped[rows].numpy().astype(np.float32),
        best[rows].numpy().astype(np.float32),
        kind[rows].numpy(),
        bad,
    )


def _one_class_each(
    boxes: Tensor, scores: Tensor, kind: Tensor, rows: Tensor, threshold: float
) -> Tensor:
    """Rows by falling score (ties: lower class) without boxes that a kept other class explains."""
    rows = rows[torch.argsort(kind[rows], stable=True)]
    rows = rows[torch.argsort(scores[rows], descending=True, stable=True)]
    overlap = pairwise_iou(boxes[rows], boxes[rows])
    same = kind[rows][:, None] == kind[rows][None]
    rivals = (overlap >= threshold) & ~same
    kept: list[int] = []
    for index in range(len(rows)):
        if not bool(rivals[index, kept].any()):
            kept.append(index)
    return rows[kept]
