"""Backbones that detectron2 does not have: VGG16 with dilated conv5 and networks of timm."""

from .timm import (  # registers build_timm_{,concat_,fpn_}backbone
    ConcatLevels,
    TimmBackbone,
    build_timm_backbone,
    build_timm_concat_backbone,
    build_timm_fpn_backbone,
    load_timm_features,
)
from .vgg import VGG16, build_vgg_backbone  # registers build_vgg_backbone

__all__ = [
    "VGG16",
    "ConcatLevels",
    "TimmBackbone",
    "build_timm_backbone",
    "build_timm_concat_backbone",
    "build_timm_fpn_backbone",
    "build_vgg_backbone",
    "load_timm_features",
]
