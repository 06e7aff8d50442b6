"""SEPL (Chen et al., 2023): pseudo labels enhanced by Segment Anything's masks."""

from .config import add_sepl_config
from .enhance import enhance_labels
from .label_source import SEPL  # registers SEPL
from .masks import MaskSet
from .settings import PAPER, REFERENCE, SEPLSettings, build_sepl_settings

__all__ = [
    "PAPER",
    "REFERENCE",
    "SEPL",
    "MaskSet",
    "SEPLSettings",
    "add_sepl_config",
    "build_sepl_settings",
    "enhance_labels",
]
