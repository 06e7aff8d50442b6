"""Backbones that detectron2 lacks: dilated VGG16 and ResNets, WRN-38 and networks of timm."""

from .resnet_dilated import DilatedResNet, build_resnet_dilated_backbone  # registers the latter
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
from .wrn38 import WRN38, build_wrn38_backbone  # registers build_wrn38_backbone
from .wrn38_checkpoint import load_wrn38, wrn38_name, wrn38_state

__all__ = [
    "PIXEL_CONVENTIONS",
    "VGG16",
    "WRN38",
    "ConcatLevels",
    "DilatedResNet",
    "PixelConvention",
    "TimmBackbone",
    "build_resnet_dilated_backbone",
    "build_resnet_ws_backbone",
    "build_timm_backbone",
    "build_timm_concat_backbone",
    "build_timm_fpn_backbone",
    "build_vgg_backbone",
    "build_wrn38_backbone",
    "convert_vgg16",
    "load_timm_features",
    "load_wrn38",
    "make_resnet_ws",
    "save_vgg16",
    "wrn38_name",
    "wrn38_state",
]
