"""Training a detector on noisy pseudo ground truth: RoI drop in R-CNN heads, query drop."""

from .limits import PercentileLimits
from .query_drop import QueryDrop, QueryDropSettings
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
    "QueryDrop",
    "QueryDropSettings",
    "RegionLosses",
    "RoIDropCascadeROIHeads",
    "RoIDropFastRCNNOutputLayers",
    "RoIDropROIHeads",
    "RoIDropRes5ROIHeads",
    "RoIDropSettings",
    "region_losses",
    "swap_box_predictors",
]
