"""S2C (Kweon and Yoon, CVPR 2024): from SAM to CAMs, for detectron2."""

from .config import add_s2c_config
from .cpm import SelfLabelRule, cpm_loss, multi_scale_cams, self_label
from .mapper import S2CMapper  # registers S2CMapper
from .network import S2C  # registers the CAM network S2C
from .peaks import class_peaks
from .prompting import PromptRule, prompt_sam
from .s2c_classifier import S2CClassifier, S2CSettings  # registers S2CClassifier
from .segment_map import paint_segments, segment_map
from .ssc_loss import segment_contrast_loss

__all__ = [
    "S2C",
    "PromptRule",
    "S2CClassifier",
    "S2CMapper",
    "S2CSettings",
    "SelfLabelRule",
    "add_s2c_config",
    "class_peaks",
    "cpm_loss",
    "multi_scale_cams",
    "paint_segments",
    "prompt_sam",
    "segment_contrast_loss",
    "segment_map",
    "self_label",
]
