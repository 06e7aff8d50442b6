"""Which query answers for which object: one assignment for each image and output layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import softplus
from torchvision.ops import box_convert, generalized_box_iou

from .outputs import ImageTargets

__all__ = ["UNMATCHED", "CostWeights", "match", "matching_cost"]

UNMATCHED = -1


@dataclass(frozen=True)
class CostWeights:
    """Factors of the three costs of a pair, and the two numbers of the focal cost."""

    classification: float = 2.0
    l1: float = 5.0
    giou: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0

    @classmethod
    def from_config(cls, cfg: Any) -> "CostWeights":
        """Read ``MODEL.DINO.COST_*`` and ``FOCAL_*``."""
        node = cfg.MODEL.DINO
        return cls(
            classification=node.COST_CLS,
            l1=node.COST_L1,
            giou=node.COST_GIOU,
            alpha=node.FOCAL_ALPHA,
            gamma=node.FOCAL_GAMMA,
        )


@torch.no_grad()
def matching_cost(
    logits: Tensor, boxes: Tensor, targets: ImageTargets, weights: CostWeights
) -> Tensor:
    """Cost (Q, n) float32 of each query answering for each of the n objects of its image.

    logits: (Q, C). boxes: (Q, 4), center form in [0, 1]. The cost of a class is its positive
    focal term minus its negative one; that of a box is the L1 distance in center form, and
    -GIoU.

    Source: Deformable DETR's matcher; extras.md, Sec. 1.3.
    """
    chosen = logits.float()[:, targets.classes]
    probability = chosen.sigmoid()
    positive = weights.alpha * (1 - probability) ** weights.gamma * softplus(-chosen)
    negative = (1 - weights.alpha) * probability**weights.gamma * softplus(chosen)
    boxes, true = boxes.float(), targets.boxes.float()
    overlap = generalized_box_iou(
        box_convert(boxes, "cxcywh", "xyxy"), box_convert(true, "cxcywh", "xyxy")
    )
    return (
        weights.classification * (positive - negative)
        + weights.l1 * torch.cdist(boxes, true, p=1)
        - weights.giou * overlap
    )


@torch.no_grad()
def match(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[ImageTargets],
    sizes: Sequence[int],
    weights: CostWeights,
) -> Tensor:
    """Assign objects to queries at the least cost, one to one, in every layer apart.

    logits: (N, Q, C), boxes: (N, Q, 4), the queries of all layers side by side: ``sizes`` tells
    how many belong to each, their sum is Q. Returns int64 (N, Q), the index of the object or
    :data:`UNMATCHED`; of more objects than queries the dearest stay without one.

    Raises:
        FloatingPointError: a cost is not finite, so that there is no least one.

    Source: DETR, Eq. 1; extras.md, Sec. 1.3.
    """
    costs = [matching_cost(logits[i], boxes[i], one, weights) for i, one in enumerate(targets)]
    flat = torch.cat([cost.flatten() for cost in costs]).cpu()  # one synchronization for all
    if not torch.isfinite(flat).all():
        raise FloatingPointError(
            "the matching cost of a query is not finite: a logit or a box is not; lower the "
            "learning rate"
        )
    found = torch.full(logits.shape[:2], UNMATCHED)
    starts = np.cumsum([0, *sizes])[:-1]
    parts = flat.split([cost.numel() for cost in costs])
    for row, cost, part in zip(found, costs, parts, strict=True):
        layers = part.view(cost.shape).split(list(sizes))
        for start, layer in zip(starts, layers, strict=True):
            queries, objects = linear_sum_assignment(layer.numpy())
            row[torch.from_numpy(queries) + int(start)] = torch.from_numpy(objects)
    return found.to(logits.device)
