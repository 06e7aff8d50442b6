"""Detectron2's three R-CNN heads with RoI drop; they differ from their parents in the losses."""

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    CascadeROIHeads,
    Res5ROIHeads,
    StandardROIHeads,
)

from .roi_drop import RoIDropSettings, swap_box_predictors

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


@ROI_HEADS_REGISTRY.register()
class RoIDropRes5ROIHeads(Res5ROIHeads):
    """``Res5ROIHeads`` (C4) with RoI drop as ``MODEL.ROI_DROP`` says."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As the parent, with the box predictor replaced."""
        return swap_box_predictors(
            super().from_config(cfg, input_shape), RoIDropSettings.from_config(cfg)
        )


@ROI_HEADS_REGISTRY.register()
class RoIDropCascadeROIHeads(CascadeROIHeads):
    """``CascadeROIHeads`` with RoI drop in every stage, each judged by its own losses."""

    @classmethod
    def from_config(cls, cfg: Any, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """As the parent, with the box predictor of every stage replaced."""
        return swap_box_predictors(
            super().from_config(cfg, input_shape), RoIDropSettings.from_config(cfg)
        )
