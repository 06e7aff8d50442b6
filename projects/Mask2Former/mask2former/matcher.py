"""Which query answers for which object."""

from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.projects.point_rend.point_features import point_sample
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .mask_losses import pairwise_mask_costs
from .outputs import LayerPrediction, MaskTargets

__all__ = ["MaskMatcher", "sample_masks"]

_NOT_A_COST = 1e8


def sample_masks(masks: Tensor, points: Tensor) -> Tensor:
    """Values (M, P) of masks (M, H, W) at points (M, P, 2), (x, y) in [0, 1], bilinear."""
    if not len(masks):
        return points.new_zeros((0, points.shape[1]))
    sampled: Tensor = point_sample(masks[:, None].float(), points, align_corners=False)
    return sampled[:, 0]


class MaskMatcher:
    """Hungarian matching of each image, by class, cross entropy and dice of random points.

    Of more objects than queries those are matched that make the cheapest assignment; the rest
    teaches nothing. Source: Mask2Former, Sec. 3.3; MaskFormer, Sec. 3.2.
    """

    @configurable
    def __init__(
        self,
        *,
        num_points: int = 12544,
        cls_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
    ) -> None:
        """Take the number of points of an image and the weights of the three costs."""
        self.num_points = num_points
        self.cls_weight = cls_weight
        self.mask_weight = mask_weight
        self.dice_weight = dice_weight

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.MASK2FORMER``; costs have the weights of the losses."""
        node = cfg.MODEL.MASK2FORMER
        return {
            "num_points": node.NUM_POINTS,
            "cls_weight": node.CLS_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
        }

    @torch.no_grad()
    def __call__(
        self, prediction: LayerPrediction, targets: list[MaskTargets]
    ) -> list[tuple[Tensor, Tensor]]:
        """For each image the matched queries and their objects, both int64 (min(Q, n),)."""
        costs = [
            self.costs(logits, masks, target)
            for logits, masks, target in zip(
                prediction.logits, prediction.masks, targets, strict=True
            )
        ]
        device = prediction.logits.device
        return [self._assign(cost, device) for cost in costs]

    def costs(self, logits: Tensor, masks: Tensor, target: MaskTargets) -> Tensor:
        """Cost (Q, n) of each query for each object of one image, at points that are drawn here.

        logits: (Q, C + 1). masks: (Q, h, w) logits.
        """
        points = torch.rand(1, self.num_points, 2, device=masks.device)
        if not len(target.classes):
            return logits.new_zeros((len(logits), 0))
        with torch.autocast(masks.device.type, enabled=False):
            found = point_sample(masks[None].float(), points, align_corners=False)[0]
            truth = sample_masks(target.masks, points.expand(len(target.masks), -1, -1))
            weight = None if target.valid is None else sample_masks(target.valid[None], points)[0]
            bce, dice = pairwise_mask_costs(found, truth, weight)
            probability = logits.float().softmax(dim=1)[:, target.classes]
        return self.mask_weight * bce + self.dice_weight * dice - self.cls_weight * probability

    @staticmethod
    def _assign(cost: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        # A loss that is not finite is reported, with its images, by the trainer; not by scipy.
        values = np.nan_to_num(cost.cpu().double().numpy(), nan=_NOT_A_COST, posinf=_NOT_A_COST)
        queries, objects = linear_sum_assignment(values)
        return torch.as_tensor(queries, device=device), torch.as_tensor(objects, device=device)
