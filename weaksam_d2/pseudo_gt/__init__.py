"""Detections and image tags to pseudo ground truth, a COCO data set to retrain on."""

from .analyze import analyze_pseudo_gt
from .generate import PseudoGTReport, generate_pseudo_gt
from .rules import (  # registers adaptive, top1
    PSEUDO_GT_RULE_REGISTRY,
    AdaptiveRule,
    PseudoGTRule,
    Top1Rule,
    build_pseudo_gt_rule,
)

__all__ = [
    "PSEUDO_GT_RULE_REGISTRY",
    "AdaptiveRule",
    "PseudoGTReport",
    "PseudoGTRule",
    "Top1Rule",
    "analyze_pseudo_gt",
    "build_pseudo_gt_rule",
    "generate_pseudo_gt",
]
