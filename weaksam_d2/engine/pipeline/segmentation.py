"""From tags to a semantic segmenter: SAM masks → maps → pseudo labels → segmenter → report."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.cams.crf import crf_setting
from weaksam_d2.data import DATASET_MAPPER_REGISTRY, LABEL_SOURCE_REGISTRY
from weaksam_d2.engine.pipeline.base import PipelineSettings, StagedPipeline
from weaksam_d2.engine.pipeline.layout import SegmentationLayout
from weaksam_d2.engine.pipeline.segmentation_figures import (
    collect_segmentation_metrics,
    teaching_labels,
)
from weaksam_d2.engine.pipeline.segmentation_report import write_segmentation_report
from weaksam_d2.engine.stages.image_stages import cams_stage, prompts_stage, proposals_stage
from weaksam_d2.engine.stages.label_stages import labels_stage
from weaksam_d2.engine.stages.training_stage import Detection, TrainingJob

__all__ = ["SegmentationPipeline"]

logger = logging.getLogger(__name__)
_WITH_CRF = "CRF"  # the maps' labels once more, through the dense CRF


class SegmentationPipeline(StagedPipeline):
    """Pseudo labels by each source of ``PIPELINE.LABELS`` in turn, and a segmenter on one of them.

    A source that reads labels takes those made just before it, so ("CAM", "SEPL") refines the maps'
    labels and ("CAM", "CRF", "SEPL") those of the CRF. With ``PIPELINE.BASELINE_CAMS_CONFIG``
    another classifier's maps go the same way, for comparison only.
    """

    names = ("sam_masks", "cams", "prompts", "labels", "segment", "report")
    config_of = {
        "classifier": "CAMS_CONFIG",
        "baseline": "BASELINE_CAMS_CONFIG",
        "segment": "SEGMENTER_CONFIG",
    }
    layout: SegmentationLayout

    def __init__(self, settings: PipelineSettings) -> None:
        super().__init__(settings)
        self.layout = SegmentationLayout(settings.output)
        if not self.cfg.PIPELINE.LABELS:
            raise ValueError("PIPELINE.LABELS is empty; name a label source, such as ('CAM',)")
        for name in self.cfg.PIPELINE.LABELS:
            LABEL_SOURCE_REGISTRY.get(_source_of(name))
        if _WITH_CRF in self.cfg.PIPELINE.LABELS:
            crf_setting(self.cfg.WEAKSAM.LABELS.CRF)  # a missing library is said now, not in hours
        self._teacher()

    def default_stages(self) -> Sequence[str]:
        """SAM masks where they are stored, maps where there is a classifier, then the rest."""
        pipeline = self.cfg.PIPELINE
        wanted = {
            "sam_masks": self.cfg.WEAKSAM.PROPOSALS.SAVE_MASKS,
            "cams": bool(pipeline.CAMS_CONFIG),
            "prompts": any(self._reads(name) == "prompts" for name in pipeline.LABELS),
            "labels": True,
            "segment": True,
        }
        return tuple(name for name, needed in wanted.items() if needed)

    def collect(self) -> dict[str, Any]:
        """mIoU of each kind of label and of the segmenters."""
        return collect_segmentation_metrics(self.cfg, self.layout, self.train, self.test)

    def write_report(self, metrics: Mapping[str, Any]) -> None:
        """Write ``report.html``."""
        write_segmentation_report(self.cfg, self.layout, self.train, self.test, metrics)

    def stage_config(self, stage: str) -> Any:
        """As the parent's; a segmenter has one class more than there are tags, the background."""
        cfg = super().stage_config(stage)
        if stage == "segment":
            cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = self.num_classes + 1
            for key in ("SEM_SEG_SCALES", "SEM_SEG_FLIP"):
                setattr(cfg.TEST, key, getattr(self.cfg.TEST, key))
        elif key := _sam_masks_key(cfg):
            cfg.merge_from_list([key, str(self.layout.sam_masks(self.train))])
        return cfg

    def _reads(self, name: str) -> str:
        return str(LABEL_SOURCE_REGISTRY.get(_source_of(name)).reads)

    def _sam_masks(self) -> None:
        place = self._place(self.layout.sam_masks(self.train))
        proposals_stage(self.cfg, self.train, None, place)

    def _cams(self) -> None:
        for run, stage in self._runs().items():
            cfg = self.stage_config(stage)
            folder = self.layout.run(run)
            job = TrainingJob(cfg, self._test_detections())
            inputs = self.classifier_inputs(cfg)
            if _sam_masks_key(cfg):
                inputs.append(("sam_masks", self.layout.sam_masks(self.train)))
            self._training(stage, job, folder.classifier, inputs)
            weights = folder.classifier / "model_final.pth"
            cams_stage(cfg, self.train, weights, self._place(folder.cams(self.train)))

    def _runs(self) -> dict[str, str]:
        """The classifiers to train: the folder of each, and its stage."""
        baseline = self.cfg.PIPELINE.BASELINE_CAMS_CONFIG
        return {"": "classifier", **({"baseline": "baseline"} if baseline else {})}

    def _prompts(self) -> None:
        for run in self._runs():
            folder = self.layout.run(run)
            cams, place = folder.cams(self.train), self._place(folder.prompts(self.train))
            prompts_stage(self.cfg, self.train, cams, place)

    def _labels(self) -> None:
        for run in self._runs():
            folder, before = self.layout.run(run), None
            for name in self.cfg.PIPELINE.LABELS:
                cfg = self.cfg.clone()
                cfg.WEAKSAM.LABELS.SOURCE = _source_of(name)
                if name == "CAM" and _WITH_CRF in self.cfg.PIPELINE.LABELS:
                    cfg.WEAKSAM.LABELS.CRF = ""
                output = folder.labels(name)
                labels_stage(cfg, self.train, self._inputs(name, run, before), self._place(output))
                before = output

    def _inputs(self, name: str, run: str, before: Path | None) -> dict[str, Path]:
        """What a source reads: maps, prompts, or the labels made before it and SAM's masks."""
        folder, reads = self.layout.run(run), self._reads(name)
        if reads == "cams":
            return {"input": folder.cams(self.train)}
        if reads == "prompts":
            return {"input": folder.prompts(self.train)}
        if reads == "labels":
            if before is None:
                raise ValueError(
                    f"PIPELINE.LABELS begins with {name!r}, which refines labels; put a source "
                    "that makes them before it, such as 'CAM'"
                )
            return {"input": before, "masks": self.layout.sam_masks(self.train)}
        return {}

    def _segment(self) -> None:
        first, chosen = self.cfg.PIPELINE.LABELS[0], self._teacher()
        self._segment_on(self.layout.segmenter, self.layout.labels(chosen))
        if self.cfg.PIPELINE.ABLATIONS and first != chosen:
            self._segment_on(self.layout.segmenter_before, self.layout.labels(first))
        if self.cfg.PIPELINE.SUPERVISED_TWIN:
            self._supervised()

    def _teacher(self) -> str:
        """The labels that the segmenter learns from."""
        chosen, given = teaching_labels(self.cfg), tuple(self.cfg.PIPELINE.LABELS)
        if chosen not in given:
            raise ValueError(
                f"PIPELINE.SEGMENTER_LABELS is {chosen!r}, expected one of PIPELINE.LABELS {given}"
            )
        return chosen

    def _segment_on(self, output: Path, labels: Path) -> None:
        cfg = self.stage_config("segment")
        cfg.DATASETS.PSEUDO_LABELS_TRAIN = (str(labels),)
        job = TrainingJob(cfg, self._segmented())
        self._training("segment", job, output, [("labels", labels)])

    def _segmented(self) -> list[Detection]:
        """The segmenter also labels its training images, which a report shows beside the labels."""
        return [*self._test_detections(), Detection(self.train)]

    def _supervised(self) -> None:
        """The same segmenter on the true label images of the same photographs."""
        twin = MetadataCatalog.get(self.train).get("sem_seg_evaluation_name", "")
        if not twin:
            raise ValueError(
                f"PIPELINE.SUPERVISED_TWIN needs true label images and data set '{self.train}' has "
                "none; set it to False"
            )
        cfg = self.stage_config("segment")
        cfg.DATASETS.TRAIN = (twin,)
        job = TrainingJob(cfg, self._test_detections())
        self._training("segment", job, self.layout.supervised, [])


def _sam_masks_key(cfg: Any) -> str:
    """The key that tells a classifier's mapper where SAM's masks of its images are; "": none."""
    if not cfg.INPUT.MAPPER_NAME:
        return ""
    return str(getattr(DATASET_MAPPER_REGISTRY.get(cfg.INPUT.MAPPER_NAME), "sam_masks_key", ""))


def _source_of(name: str) -> str:
    """Name in the registry of a word of ``PIPELINE.LABELS``."""
    return "CAM" if name == _WITH_CRF else name
