"""Mask2Former (Cheng et al., CVPR 2022) for detectron2, with WeakSAM's query drop."""

from .checkpoint import load_published
from .config import add_mask2former_config
from .criterion import MaskCriterion
from .mapper import Mask2FormerMapper  # registers Mask2FormerMapper
from .mask2former import Mask2Former  # registers Mask2Former
from .matcher import MaskMatcher
from .outputs import LayerPrediction, MaskTargets
from .swin import build_swin_backbone  # registers build_swin_backbone

__all__ = [
    "LayerPrediction",
    "Mask2Former",
    "Mask2FormerMapper",
    "MaskCriterion",
    "MaskMatcher",
    "MaskTargets",
    "add_mask2former_config",
    "build_swin_backbone",
    "load_published",
]
