"""Segment Anything: one embedding for an image, masks for many prompts."""

from weaksam_d2.sam.backend import Embedding, SamBackend, SamChunk
from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY, build_sam_backend, sam_weights
from weaksam_d2.sam.edge_tam import EdgeTAM  # registers EdgeTAM
from weaksam_d2.sam.fake import FakeSam  # registers FakeSam
from weaksam_d2.sam.predictor import BatchedPredictor
from weaksam_d2.sam.sam2 import SAM2  # registers SAM2
from weaksam_d2.sam.sam_hq import SAMHQ  # registers SAMHQ
from weaksam_d2.sam.sam_transformers import SAMTransformers  # registers SAMTransformers
from weaksam_d2.sam.segment_anything import SegmentAnything, build_sam  # registers SegmentAnything

__all__ = [
    "SAM2",
    "SAMHQ",
    "SAM_BACKEND_REGISTRY",
    "BatchedPredictor",
    "EdgeTAM",
    "Embedding",
    "FakeSam",
    "SAMTransformers",
    "SamBackend",
    "SamChunk",
    "SegmentAnything",
    "build_sam",
    "build_sam_backend",
    "sam_weights",
]
