"""Detections and image tags to pseudo ground truth, a COCO data set to retrain on."""

from .analyze import analyze_pseudo_gt
from .export import EXPORT_LAYOUTS, export_pseudo_gt
from .fusion import FusionSettings, build_fusion, fuse_detections
from .generate import generate_pseudo_gt, stream_pseudo_gt
from .instance_masks import MaskCounts, check_pseudo_boxes, generate_masks, part_of
from .masks import BoxMasks, MaskSettings, boxes_to_masks, build_mask_settings, stored_masks
from .provenance import describe_detections
from .rules import (  # registers adaptive, all, sos, threshold, top1, topk, w2n
    PSEUDO_GT_RULE_REGISTRY,
    AdaptiveRule,
    AllRule,
    PseudoGTRule,
    SoSRule,
    ThresholdRule,
    Top1Rule,
    TopKRule,
    W2NRule,
    build_pseudo_gt_rule,
)
from .statistics import PseudoGTReport, format_statistics

__all__ = [
    "EXPORT_LAYOUTS",
    "PSEUDO_GT_RULE_REGISTRY",
    "AdaptiveRule",
    "AllRule",
    "BoxMasks",
    "FusionSettings",
    "MaskCounts",
    "MaskSettings",
    "PseudoGTReport",
    "PseudoGTRule",
    "SoSRule",
    "ThresholdRule",
    "Top1Rule",
    "TopKRule",
    "W2NRule",
    "analyze_pseudo_gt",
    "boxes_to_masks",
    "build_fusion",
    "build_mask_settings",
    "build_pseudo_gt_rule",
    "check_pseudo_boxes",
    "describe_detections",
    "export_pseudo_gt",
    "format_statistics",
    "fuse_detections",
    "generate_masks",
    "generate_pseudo_gt",
    "part_of",
    "stored_masks",
    "stream_pseudo_gt",
]
