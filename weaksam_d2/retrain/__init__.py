"""Training a detector on noisy pseudo ground truth: RoI drop in detectron2's R-CNN heads."""

from .limits import PercentileLimits
from .region_losses import RegionLosses, region_losses
from .roi_drop import RoIDropFastRCNNOutputLayers, swap_box_predictors
from .roi_heads import (  # registers RoIDropROIHeads, RoIDropRes5ROIHeads, RoIDropCascadeROIHeads
    RoIDropCascadeROIHeads,
    RoIDropRes5ROIHeads,
    RoIDropROIHeads,
)
from .settings import RoIDropSettings

__all__ = [
    "PercentileLimits",
    "RegionLosses",
    "RoIDropCascadeROIHeads",
    "RoIDropFastRCNNOutputLayers",
    "RoIDropROIHeads",
    "RoIDropRes5ROIHeads",
    "RoIDropSettings",
    "region_losses",
    "swap_box_predictors",
]
