"""All stages: cams → prompts → proposals → wsod → pseudo_gt → retrain → (masks) → report."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.utils.env import seed_all_rng

from weaksam_d2.artifacts import RunManifest, write_json
from weaksam_d2.data import prepare_datasets, weak_records
from weaksam_d2.engine.cli import ConfigExtension, base_config, resolve_device
from weaksam_d2.engine.pipeline.figures import collect_metrics, metrics_table
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.report import write_pipeline_report
from weaksam_d2.engine.pipeline.rounds import check_rounds, relabel_stage
from weaksam_d2.engine.stages.image_stages import (
    Placement,
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
    STAGE_KEYS,
    StageRequest,
    declared_config,
    describe_records,
    run_stage,
)
from weaksam_d2.engine.stages.training_stage import (
    Detection,
    TrainingJob,
    detections_file,
    train_and_detect,
)
from weaksam_d2.engine.training.supervision import refuse_box_supervised_weights
from weaksam_d2.evaluation import build_mask_evaluator
from weaksam_d2.weights import resolve_weights

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


@dataclass
class PipelineSettings:
    """A pipeline's YAML and what the command line changes of it.

    ``opts`` are KEY VALUE pairs for every stage that declares the key; ``stage_opts`` those of one
    stage (``{"wsod": ["SOLVER.MAX_ITER", "500"]}``).
    """

    config_file: Path
    output: Path
    opts: Sequence[str] = ()
    stage_opts: dict[str, list[str]] = field(default_factory=dict)
    stages: Sequence[str] = ()
    num_images: int = 0
    overwrite: bool = False
    extend_config: ConfigExtension | None = None  # adds the keys of projects


class Pipeline:
    """Runs the stages of one configuration into one folder; what is complete is skipped."""

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        cfg = base_config(settings.extend_config)
        cfg.merge_from_file(str(settings.config_file))
        cfg.merge_from_list(list(settings.opts))
        self._choose_datasets(cfg)
        resolve_device(cfg)
        prepare_datasets(cfg)
        self.train = cfg.DATASETS.TRAIN[0]
        self.test = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
        self.datasets = [name for name in (self.train, self.test) if name]
        self.num_classes = len(MetadataCatalog.get(self.train).thing_classes)
        check_rounds(cfg)
        self.cfg = cfg
        self.layout = Layout(settings.output)
        self.seconds: dict[str, float] = {}

    def _choose_datasets(self, cfg: Any) -> None:
        """Check that there is one training set and at most one test set; take their first images.

        A user's folder of tags has no test set: its stages stop at what tags alone can give.
        """
        for key, allowed in (("TRAIN", (1,)), ("TEST", (0, 1))):
            names = getattr(cfg.DATASETS, key)
            if len(names) not in allowed:
                raise ValueError(f"DATASETS.{key} is {names}, a pipeline takes one data set")
            if self.settings.num_images and names:
                count = self.settings.num_images // (1 if key == "TRAIN" else 2)
                setattr(cfg.DATASETS, key, (f"{names[0]}@{max(1, count)}",))

    def run(self) -> dict[str, Any]:
        """Run the asked stages and write ``metrics.json`` (and the report); returns the figures."""
        rounds = ("rounds",) if self.cfg.PIPELINE.ROUNDS > 1 else ()
        asked = tuple(self.settings.stages) or (*self.cfg.PIPELINE.STAGES, *rounds, "report")
        unknown = [name for name in asked if name not in NAMES]
        if unknown:
            raise ValueError(f"unknown stage {unknown[0]!r}, expected one of {', '.join(NAMES)}")
        for name in NAMES:
            if name in asked and name != "report":
                start = time.perf_counter()
                logger.info("── %s", name)
                getattr(self, f"_{name}")()
                self.seconds[name] = round(time.perf_counter() - start, 1)
                logger.info("── %s: %.0f s", name, self.seconds[name])
        metrics = collect_metrics(self.cfg, self.layout, self.train, self.test)
        write_json(self.layout.metrics, metrics)
        if "report" in asked:
            write_pipeline_report(self.cfg, self.layout, self.train, self.test, metrics)
        print(metrics_table(metrics))
        print(f"figures: {self.layout.metrics}")
        if "report" in asked:
            print(f"report:  {self.layout.report}")
        return metrics

    def stage_config(self, stage: str) -> Any:
        """The config of one stage: its own YAML, then what the pipeline and command line set."""
        cfg = base_config(self.settings.extend_config)
        name = getattr(self.cfg.PIPELINE, CONFIG_OF[stage]) if stage in CONFIG_OF else ""
        if name:
            cfg.merge_from_file(str(self.settings.config_file.parent / name))
        cfg.WEAKSAM = self.cfg.WEAKSAM.clone()
        if stage != "retrain":
            cfg.WEAKSAM.EMA_TEACHER.DECAY = 0.0
        for key in ("TRAIN", "TEST", "REGISTER", "TAGGED", "VOC"):
            setattr(cfg.DATASETS, key, getattr(self.cfg.DATASETS, key))
        cfg.SEED, cfg.TEST.BOOTSTRAP = self.cfg.SEED, self.cfg.TEST.BOOTSTRAP
        cfg.TEST.EXCLUDE_IDS = self.cfg.TEST.EXCLUDE_IDS
        for key in ("MASK_EVAL", "MASK_IOUS"):
            setattr(cfg.TEST, key, getattr(self.cfg.TEST, key))
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = self.num_classes
        prefixes = STAGE_KEYS[stage]
        pairs = list(zip(self.settings.opts[::2], self.settings.opts[1::2], strict=True))
        for key, value in pairs:
            if key.split(".")[0] in prefixes and not key.startswith("DATASETS."):
                cfg.merge_from_list([key, value])
        cfg.merge_from_list(self.settings.stage_opts.get(stage, []))
        cfg.MODEL.DEVICE = self.cfg.MODEL.DEVICE
        refuse_box_supervised_weights(cfg, where=name)
        return cfg

    def _test_detections(self) -> list[Detection]:
        return [Detection(self.test)] if self.test else []

    def _place(self, output: Path) -> Placement:
        return Placement(output, on_change="redo", overwrite=self.settings.overwrite)

    def _cams(self) -> None:
        if not self.cfg.PIPELINE.CAMS_CONFIG:
            logger.info("PIPELINE.CAMS_CONFIG is empty: prompts without activation maps")
            return
        cfg = self.stage_config("classifier")
        job = TrainingJob(cfg, self._test_detections())
        source = cfg.MODEL.CLASSIFIER.WEIGHTS
        inputs = [("initial", resolve_weights(source))] if source else []
        self._training("classifier", job, self.layout.classifier, inputs)
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

    def _training(
        self, stage: str, job: TrainingJob, output: Path, inputs: Sequence[tuple[str, Path]]
    ) -> RunManifest:
        described = describe_records(self.train, weak_records(self.train))
        if job.cfg.TEST.EXCLUDE_IDS:
            inputs = [*inputs, ("excluded_ids", Path(job.cfg.TEST.EXCLUDE_IDS))]
        request = StageRequest(
            stage=stage,
            output=output,
            config=declared_config(job.cfg, stage),
            dataset=described,
            inputs=tuple(inputs),
            on_change="redo",
            overwrite=self.settings.overwrite,
        )

        def body(folder: Path, resume: bool) -> Any:
            seed_all_rng(job.cfg.SEED if job.cfg.SEED >= 0 else None)
            return train_and_detect(job, folder, resume)

        return run_stage(request, body)
