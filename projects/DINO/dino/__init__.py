"""DINO (Zhang et al., ICLR 2023) for detectron2, with WeakSAM's query drop."""

from .config import add_dino_config
from .dino import DINO  # registers the meta architecture
from .mapper import DetrMapper  # registers DetrMapper
from .test_time_augmentation import DINOWithTTA

__all__ = ["DINO", "DINOWithTTA", "DetrMapper", "add_dino_config"]
