"""Detectron2's three R-CNN heads with RoI drop; they differ from their parents in the losses."""

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    StandardROIHeads,
)
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor

from .region_losses import SCORE_FIELD
from .roi_drop import KEPT_FIELD, swap_box_predictors
from .settings import RoIDropSettings

__all__ = ["RoIDropCascadeROIHeads", "RoIDropRes5ROIHeads", "RoIDropROIHeads"]


@ROI_HEADS_REGISTRY.register()
class RoIDropROIHeads(StandardROIHeads):
    """``StandardROIHeads`` (FPN) with RoI drop as ``MODEL.ROI_DROP`` says."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As the parent, with the box predictor replaced."""
        return swap_box_predictors(
            super().from_config(cfg, input_shape), RoIDropSettings.from_config(cfg)
        )

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        kept, share = only_kept(instances, self.num_classes)
        found = super()._forward_mask(features, kept)
        return found if share is None else {name: loss * share for name, loss in found.items()}


@ROI_HEADS_REGISTRY.register()
class RoIDropRes5ROIHeads(Res5ROIHeads):
    """``Res5ROIHeads`` (C4) with RoI drop as ``MODEL.ROI_DROP`` says, but without ``MASK``."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As the parent, with the box predictor replaced; raises ValueError for ``MASK``."""
        settings = RoIDropSettings.from_config(cfg)
        if settings.mask:
            raise ValueError(
                "MODEL.ROI_DROP.MASK is not possible with RoIDropRes5ROIHeads, whose box and mask "
                "branches share one pass; set it to False, or take an FPN and RoIDropROIHeads"
            )
        return swap_box_predictors(super().from_config(cfg, input_shape), settings)


@ROI_HEADS_REGISTRY.register()
class RoIDropCascadeROIHeads(CascadeROIHeads):
    """``CascadeROIHeads`` with RoI drop in chosen stages, each judged by its own losses.

    The mask branch sees the regions of stage 0, so ``MASK`` follows what that stage drops.
    """

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As the parent, with the box predictors of ``MODEL.ROI_DROP.STAGES`` replaced."""
        return swap_box_predictors(
            super().from_config(cfg, input_shape), RoIDropSettings.from_config(cfg)
        )

    def _forward_mask(self, features: dict[str, Tensor], instances: list[Instances]) -> Any:
        kept, share = only_kept(instances, self.num_classes)
        found = super()._forward_mask(features, kept)
        return found if share is None else {name: loss * share for name, loss in found.items()}

    @torch.no_grad()
    def _match_and_label_boxes(
        self, proposals: list[Instances], stage: int, targets: list[Instances]
    ) -> list[Instances]:
        """As the parent, and the score of the matched box: later stages match anew."""
        labelled: list[Instances] = super()._match_and_label_boxes(proposals, stage, targets)
        for regions, truth in zip(labelled, targets, strict=True):
            if not truth.has(SCORE_FIELD):
                continue
            score = truth.get(SCORE_FIELD)
            if len(truth):
                quality = pairwise_iou(truth.gt_boxes, regions.proposal_boxes)
                regions.set(SCORE_FIELD, score[self.proposal_matchers[stage](quality)[0]])
            else:
                regions.set(SCORE_FIELD, score.new_ones(len(regions)))
        return labelled


def only_kept(
    instances: list[Instances], num_classes: int
) -> tuple[list[Instances], Tensor | None]:
    """Regions that were not dropped, and their share of the foreground; the mask loss is a mean.

    Without a decision (``MASK`` False, before the start, inference): all of them and None.

    Source: weaksam.md, Sec. 7.2 (the normalizer stays).
    """
    if not instances or not all(one.has(KEPT_FIELD) for one in instances):
        return instances, None
    labels = torch.cat([one.gt_classes for one in instances])
    keep = torch.cat([one.get(KEPT_FIELD) for one in instances])
    foreground = (labels >= 0) & (labels < num_classes)
    share = (keep & foreground).sum() / foreground.sum().clamp(min=1)
    return [one[one.get(KEPT_FIELD)] for one in instances], share
