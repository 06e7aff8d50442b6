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
from .crf import CRF_SETTINGS, CrfSetting, RefinedLabels, crf_setting, dense_crf
from .generate import CamsSummary, generate_cams, view_size
from .labels import CAM, FullCam, read_cam  # registers the label source CAM
from .mctformer import MCTformer  # registers the CAM network MCTformer
from .official_files import OFFICIAL_LAYOUTS
from .official_maps import OfficialCams, find_official_files, import_official_cams
from .weaktr import WeakTr  # registers the CAM network WeakTr

__all__ = [
    "CAM",
    "CAM_NETWORK_REGISTRY",
    "CLIP",
    "CLIPES",
    "CNN",
    "CRF_SETTINGS",
    "CamNetwork",
    "CamsSummary",
    "CrfSetting",
    "FrozenNetworkError",
    "FullCam",
    "ImageClassifier",
    "MCTformer",
    "OFFICIAL_LAYOUTS",
    "OfficialCams",
    "RefinedLabels",
    "ViewMaps",
    "WeakTr",
    "check_pretrained",
    "crf_setting",
    "dense_crf",
    "find_official_files",
    "generate_cams",
    "import_official_cams",
    "load_clip",
    "read_cam",
    "view_size",
]
