"""Training a detector on noisy pseudo ground truth: RoI drop in detectron2's R-CNN heads."""

from .roi_drop import RoIDropFastRCNNOutputLayers, RoIDropSettings, swap_box_predictors
from .roi_heads import (  # registers RoIDropROIHeads, RoIDropRes5ROIHeads, RoIDropCascadeROIHeads
    RoIDropCascadeROIHeads,
    RoIDropRes5ROIHeads,
    RoIDropROIHeads,
)

__all__ = [
    "RoIDropCascadeROIHeads",
    "RoIDropFastRCNNOutputLayers",
    "RoIDropROIHeads",
    "RoIDropRes5ROIHeads",
    "RoIDropSettings",
    "swap_box_predictors",
]
