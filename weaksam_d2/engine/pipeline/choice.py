"""Which pipeline a YAML describes."""

from weaksam_d2.engine.pipeline.base import PipelineSettings, StagedPipeline
from weaksam_d2.engine.pipeline.pipeline import Pipeline
from weaksam_d2.engine.pipeline.segmentation import SegmentationPipeline

__all__ = ["open_pipeline"]


def open_pipeline(settings: PipelineSettings) -> StagedPipeline:
    """The road to a segmenter where ``PIPELINE.SEGMENTER_CONFIG`` names one, else to a detector."""
    segmenter = settings.read().PIPELINE.SEGMENTER_CONFIG
    return SegmentationPipeline(settings) if segmenter else Pipeline(settings)
