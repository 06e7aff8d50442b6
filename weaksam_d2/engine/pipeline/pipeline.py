"""All stages: cams → prompts → proposals → wsod → pseudo_gt → retrain → (masks) → report."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.data import weak_records
from weaksam_d2.engine.pipeline.base import PipelineSettings, StagedPipeline
from weaksam_d2.engine.pipeline.figures import collect_metrics
from weaksam_d2.engine.pipeline.report import write_pipeline_report
from weaksam_d2.engine.pipeline.rounds import check_rounds, relabel_stage
from weaksam_d2.engine.stages.image_stages import (
    cams_stage,
    prompts_stage,
    proposals_stage,
    pseudo_gt_stage,
)
from weaksam_d2.engine.stages.mask_stages import (
    detection_masks_stage,
    instance_masks_stage,
    mask_figures_stage,
)
from weaksam_d2.engine.stages.stage import (
    describe_records,
)
from weaksam_d2.engine.stages.training_stage import (
    Detection,
    TrainingJob,
    detections_file,
)
from weaksam_d2.evaluation import build_mask_evaluator

logger = logging.getLogger(__name__)
_WITHOUT_DROP: tuple[Any, ...] = ("MODEL.ROI_DROP.MODE", "off", "MODEL.QUERY_DROP.ENABLED", False)
CONFIG_OF = {
    "classifier": "CAMS_CONFIG",
    "wsod": "WSOD_CONFIG",
    "retrain": "RETRAIN_CONFIG",
    "masks": "MASKS_CONFIG",
}
NAMES = (
    *("cams", "prompts", "proposals", "wsod", "pseudo_gt"),
    *("retrain", "rounds", "masks", "report"),
)


class Pipeline(StagedPipeline):
    """From tags to a detector: the stages of the paper, then masks if they are asked for."""

    names = NAMES
    config_of = CONFIG_OF

    def __init__(self, settings: PipelineSettings) -> None:
        super().__init__(settings)
        check_rounds(self.cfg)

    def default_stages(self) -> Sequence[str]:
        """``PIPELINE.STAGES``, and self-training where there are several rounds."""
        rounds = ("rounds",) if self.cfg.PIPELINE.ROUNDS > 1 else ()
        return (*self.cfg.PIPELINE.STAGES, *rounds)

    def collect(self) -> dict[str, Any]:
        """The figures of the stages that are complete."""
        return collect_metrics(self.cfg, self.layout, self.train, self.test)

    def write_report(self, metrics: Mapping[str, Any]) -> None:
        """Write ``report.html``."""
        write_pipeline_report(self.cfg, self.layout, self.train, self.test, metrics)

    def _cams(self) -> None:
        if not self.cfg.PIPELINE.CAMS_CONFIG:
            logger.info("PIPELINE.CAMS_CONFIG is empty: prompts without activation maps")
            return
        cfg = self.stage_config("classifier")
        job = TrainingJob(cfg, self._test_detections())
        self._training("classifier", job, self.layout.classifier, self.classifier_inputs(cfg))
        weights = self.layout.classifier / "model_final.pth"
        for name in self.datasets:
            cams_stage(cfg, name, weights, self._place(self.layout.cams(name)))

    def _prompts(self) -> None:
        for name in self.datasets:
            cams = self.layout.cams(name)
            source = cams if self.cfg.PIPELINE.CAMS_CONFIG else None
            prompts_stage(self.cfg, name, source, self._place(self.layout.prompts(name)))

    def _proposals(self) -> None:
        for name in self.datasets:
            place = self._place(self.layout.proposals(name))
            proposals_stage(self.cfg, name, self.layout.prompts(name), place)
        if self.cfg.PIPELINE.SELECTIVE_SEARCH:
            cfg = self.cfg.clone()
            cfg.WEAKSAM.PROPOSALS.METHOD = "SelectiveSearch"
            for name in self.datasets:
                place = self._place(self.layout.selective_search(name))
                proposals_stage(cfg, name, None, place)

    def _wsod(self) -> None:
        cfg = self.stage_config("wsod")
        if cfg.DATASETS.BOXES_TRAIN:
            raise ValueError(
                f"{self.cfg.PIPELINE.WSOD_CONFIG}: DATASETS.BOXES_TRAIN is "
                f"{cfg.DATASETS.BOXES_TRAIN}, and the figures of a pipeline stand in weak rows; "
                "train with boxes by tools/train_net.py"
            )
        stores = {name: self.layout.proposals(name) for name in self.datasets}
        cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(stores[self.train]),)
        # The filter is on where the tags are known: labels for retraining and CorLoc, never AP.
        detections = [
            Detection(name, store, label_filter=name == self.train)
            for name, store in stores.items()
        ]
        inputs = [(f"proposals/{name}", store) for name, store in stores.items()]
        self._training("wsod", TrainingJob(cfg, detections), self.layout.wsod, inputs)

    def _pseudo_gt(self) -> None:
        detections = detections_file(self.layout.wsod, self.train)
        for rule in dict.fromkeys(("adaptive", "top1", self.cfg.WEAKSAM.PSEUDO_GT.RULE)):
            cfg = self.cfg.clone()
            cfg.WEAKSAM.PSEUDO_GT.RULE = rule
            pseudo_gt_stage(cfg, self.train, detections, self._place(self.layout.pseudo_gt(rule)))

    def _retrain(self) -> None:
        rule = self.cfg.WEAKSAM.PSEUDO_GT.RULE
        self._retrain_on("retrain", rule, [])
        if self.cfg.PIPELINE.ABLATIONS:
            self._retrain_on("retrain_without_roi_drop", rule, list(_WITHOUT_DROP))
            self._retrain_on("retrain_top1", "top1", [])
        if self.cfg.PIPELINE.SUPERVISED_TWIN:
            self._supervised()

    def _supervised(self) -> None:
        """The detector of the retraining stage on the true boxes of the same images."""
        twin = MetadataCatalog.get(self.train).get("evaluation_name", "")
        if not twin:
            raise ValueError(
                f"PIPELINE.SUPERVISED_TWIN needs true boxes and data set '{self.train}' has none; "
                "set it to False"
            )
        cfg = self.stage_config("retrain")
        cfg.merge_from_list(list(_WITHOUT_DROP))
        cfg.DATASETS.TRAIN = (twin,)
        job = TrainingJob(cfg, self._test_detections())
        self._training("retrain", job, self.layout.supervised, [])

    def _retrain_on(self, name: str, rule: str, opts: list[str]) -> None:
        pseudo_gt = self.layout.pseudo_gt(rule) / "pseudo_gt.json"
        self._train_on(self.layout.root / name, pseudo_gt, opts)

    def _train_on(self, output: Path, pseudo_gt: Path, opts: list[str]) -> None:
        cfg = self.stage_config("retrain")
        cfg.merge_from_list(opts)
        cfg.DATASETS.PSEUDO_GT_TRAIN = (str(pseudo_gt),)
        job = TrainingJob(cfg, self._test_detections())
        self._training("retrain", job, output, [("pseudo_gt", pseudo_gt)])

    def _rounds(self) -> None:
        """Self-training: labels by the retrained detector, a new detector on them, and again."""
        rule = self.cfg.WEAKSAM.PSEUDO_GT.RULE
        for number in range(2, self.cfg.PIPELINE.ROUNDS + 1):
            teacher, own = self.layout.round(number - 1).retrain, self.layout.round(number)
            logger.info("── round %d of %d", number, self.cfg.PIPELINE.ROUNDS)
            described = describe_records(self.train, weak_records(self.train))
            place = self._place(own.relabelled)
            relabel_stage(self.stage_config("retrain"), self.train, teacher, place, described)
            found, labels = detections_file(own.relabelled, self.train), own.pseudo_gt(rule)
            pseudo_gt_stage(self.cfg, self.train, found, self._place(labels))
            self._train_on(own.retrain, labels / "pseudo_gt.json", [])

    def _masks(self) -> None:
        """Masks of the pseudo boxes, a detector trained on them, and SAM on detected boxes."""
        if not self.cfg.PIPELINE.MASKS_CONFIG:
            logger.info("PIPELINE.MASKS_CONFIG is empty: no instance masks")
            return
        self._check_apart()
        rule, labels = self.cfg.WEAKSAM.PSEUDO_GT.RULE, self.layout.instance_masks
        boxes = self.layout.pseudo_gt(rule) / "pseudo_gt.json"
        store = self._stored_masks(self.train)
        place = self._place(labels)
        instance_masks_stage(self.cfg, self.train, boxes, place, proposals=store)
        cfg = self.stage_config("masks")
        cfg.DATASETS.PSEUDO_GT_TRAIN = (str(labels / "pseudo_gt.json"),)
        job = TrainingJob(cfg, self._test_detections())
        inputs = [("pseudo_gt", labels / "pseudo_gt.json")]
        self._training("masks", job, self.layout.mask_detector, inputs)
        if self.test:
            self._box_to_mask(cfg)

    def _box_to_mask(self, cfg: Any) -> None:
        """The baseline without a mask head: SAM on the boxes of the retrained detector."""
        found, output = detections_file(self.layout.retrain, self.test), self.layout.box_to_mask
        if not found.exists():
            logger.info("%s is not there: no masks of detected boxes", found)
            return
        store = self._stored_masks(self.test)
        detection_masks_stage(self.cfg, self.test, found, self._place(output), proposals=store)
        if build_mask_evaluator(cfg, self.test) is not None:
            place = self._place(self.layout.box_to_mask_figures)
            mask_figures_stage(cfg, self.test, output / "detections.json", place)

    def _stored_masks(self, dataset: str) -> Path | None:
        reuse = self.cfg.WEAKSAM.INSTANCE_MASKS.REUSE_STORED
        return self.layout.proposals(dataset) if reuse else None

    def _check_apart(self) -> None:
        """Masks of a test image must not be learned from its own pseudo masks."""
        if not self.test:
            return
        files = [{r["file_name"] for r in weak_records(name)} for name in self.datasets]
        if both := sorted(set.intersection(*files)):
            raise ValueError(
                f"{len(both)} images are in both {self.train} and {self.test}, for example "
                f"{both[:3]}; instance segmentation is evaluated on other images"
            )
