"""The SAM backend on transformers' EdgeTamModel: SAM 2 with a small convolutional encoder."""

from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY
from weaksam_d2.sam.sam2 import SAM2

__all__ = ["EdgeTAM"]


@SAM_BACKEND_REGISTRY.register()
class EdgeTAM(SAM2):
    """EdgeTAM on still images: SAM 2's decoder on RepViT (from timm).

    Source: Zhou et al., EdgeTAM: On-Device Track Anything Model.
    """

    library_class = "EdgeTamModel"
    model_types = ("edgetam", "edgetam_video")
    since = "4.57"
