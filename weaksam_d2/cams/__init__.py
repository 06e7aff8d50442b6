"""Image classifiers and their activation maps (WeakSAM, Sec. 3.1)."""

from .classifier import (
    CAM_NETWORK_REGISTRY,
    CamNetwork,
    ImageClassifier,
    ViewMaps,
    check_pretrained,
)
from .clip import CLIP, load_clip
from .clip_es import CLIPES, FrozenNetworkError  # registers the CAM network CLIPES
from .cnn import CNN  # registers the CAM network CNN
from .generate import CamsSummary, generate_cams, view_size
from .mctformer import MCTformer  # registers the CAM network MCTformer
from .weaktr import WeakTr  # registers the CAM network WeakTr

__all__ = [
    "CAM_NETWORK_REGISTRY",
    "CLIP",
    "CLIPES",
    "CNN",
    "CamNetwork",
    "CamsSummary",
    "FrozenNetworkError",
    "ImageClassifier",
    "MCTformer",
    "ViewMaps",
    "WeakTr",
    "check_pretrained",
    "generate_cams",
    "load_clip",
    "view_size",
]
