"""Image classifiers and their activation maps (WeakSAM, Sec. 3.1)."""

from .classifier import CAM_NETWORK_REGISTRY, CamNetwork, ImageClassifier, ViewMaps
from .cnn import CNN  # registers the CAM network CNN
from .generate import CamsSummary, generate_cams, view_size

__all__ = [
    "CAM_NETWORK_REGISTRY",
    "CNN",
    "CamNetwork",
    "CamsSummary",
    "ImageClassifier",
    "ViewMaps",
    "generate_cams",
    "view_size",
]
