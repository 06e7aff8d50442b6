"""Backbones that detectron2 does not have: dilated VGG16, ResNet-WS and networks of timm."""

from .resnet_ws import build_resnet_ws_backbone, make_resnet_ws  # registers the former
from .timm import (  # registers build_timm_{,concat_,fpn_}backbone
    ConcatLevels,
    TimmBackbone,
    build_timm_backbone,
    build_timm_concat_backbone,
    build_timm_fpn_backbone,
    load_timm_features,
)
from .vgg import VGG16, build_vgg_backbone  # registers build_vgg_backbone
from .vgg_checkpoint import PIXEL_CONVENTIONS, PixelConvention, convert_vgg16, save_vgg16

__all__ = [
    "PIXEL_CONVENTIONS",
    "VGG16",
    "ConcatLevels",
    "PixelConvention",
    "TimmBackbone",
    "build_resnet_ws_backbone",
    "build_timm_backbone",
    "build_timm_concat_backbone",
    "build_timm_fpn_backbone",
    "build_vgg_backbone",
    "convert_vgg16",
    "load_timm_features",
    "make_resnet_ws",
    "save_vgg16",
]
