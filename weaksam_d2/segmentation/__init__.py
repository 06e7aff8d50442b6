"""Segmenters that learn from label images: DeepLab heads, their losses, and test-time views."""

from weaksam_d2.segmentation.deeplab_head import (  # registers the heads
    DeepLabV2Head,
    LabelDeepLabV3PlusHead,
)
from weaksam_d2.segmentation.losses import LabelLoss
from weaksam_d2.segmentation.test_time_augmentation import SemSegWithTTA, asks_for_views

__all__ = [
    "DeepLabV2Head",
    "LabelDeepLabV3PlusHead",
    "LabelLoss",
    "SemSegWithTTA",
    "asks_for_views",
]
