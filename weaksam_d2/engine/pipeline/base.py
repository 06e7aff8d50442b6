"""What every pipeline does: one config, one folder, stages that are skipped when complete."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from detectron2.data import MetadataCatalog
from detectron2.utils.env import seed_all_rng

from weaksam_d2.artifacts import RunManifest, write_json
from weaksam_d2.data import prepare_datasets, weak_records
from weaksam_d2.engine.cli import ConfigExtension, base_config, resolve_device
from weaksam_d2.engine.pipeline.figures import metrics_table
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.stage import (
    STAGE_KEYS,
    StageRequest,
    declared_config,
    describe_records,
    run_stage,
)
from weaksam_d2.engine.stages.training_stage import Detection, TrainingJob, train_and_detect
from weaksam_d2.engine.training.supervision import refuse_box_supervised_weights
from weaksam_d2.weights import resolve_weights

__all__ = ["PipelineSettings", "StagedPipeline"]

logger = logging.getLogger(__name__)


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

    def read(self) -> Any:
        """The pipeline's config, with the command line's pairs."""
        cfg = base_config(self.extend_config)
        cfg.merge_from_file(str(self.config_file))
        cfg.merge_from_list(list(self.opts))
        return cfg


class StagedPipeline:
    """Runs the stages of one configuration into one folder; what is complete is skipped.

    Subclasses name their stages in order (``names``; each is the method ``_<name>``), the config
    of each trained one (``config_of``: stage → key of ``PIPELINE``), and how to make the figures
    and the page.
    """

    names: ClassVar[tuple[str, ...]]
    config_of: ClassVar[Mapping[str, str]]

    def __init__(self, settings: PipelineSettings) -> None:
        self.settings = settings
        cfg = settings.read()
        unknown = sorted(set(settings.stage_opts) - set(self.config_of))
        if unknown:
            raise ValueError(
                f"--set {unknown[0]}: this pipeline trains {', '.join(self.config_of)}"
            )
        self._choose_datasets(cfg)
        resolve_device(cfg)
        prepare_datasets(cfg)
        self.train = cfg.DATASETS.TRAIN[0]
        self.test = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
        self.datasets = [name for name in (self.train, self.test) if name]
        self.num_classes = len(MetadataCatalog.get(self.train).thing_classes)
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

    def default_stages(self) -> Sequence[str]:
        """The stages that run when none is asked for, without the report."""
        raise NotImplementedError(f"{type(self).__name__} does not implement default_stages")

    def collect(self) -> dict[str, Any]:
        """The figures of the stages that are complete."""
        raise NotImplementedError(f"{type(self).__name__} does not implement collect")

    def write_report(self, metrics: Mapping[str, Any]) -> None:
        """Write the page."""
        raise NotImplementedError(f"{type(self).__name__} does not implement write_report")

    def run(self) -> dict[str, Any]:
        """Run the asked stages and write ``metrics.json`` (and the report); returns the figures."""
        asked = tuple(self.settings.stages) or (*self.default_stages(), "report")
        unknown = [name for name in asked if name not in self.names]
        if unknown:
            raise ValueError(
                f"unknown stage {unknown[0]!r}, expected one of {', '.join(self.names)}"
            )
        for name in self.names:
            if name in asked and name != "report":
                start = time.perf_counter()
                logger.info("── %s", name)
                getattr(self, f"_{name}")()
                self.seconds[name] = round(time.perf_counter() - start, 1)
                logger.info("── %s: %.0f s", name, self.seconds[name])
        metrics = self.collect()
        write_json(self.layout.metrics, metrics)
        if "report" in asked:
            self.write_report(metrics)
        print(metrics_table(metrics))
        print(f"figures: {self.layout.metrics}")
        if "report" in asked:
            print(f"report:  {self.layout.report}")
        return metrics

    def stage_config(self, stage: str) -> Any:
        """The config of one stage: its own YAML, then what the pipeline and command line set."""
        cfg = base_config(self.settings.extend_config)
        name = getattr(self.cfg.PIPELINE, self.config_of[stage]) if stage in self.config_of else ""
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

    @staticmethod
    def classifier_inputs(cfg: Any) -> list[tuple[str, Path]]:
        """The weights that a classifier begins with, as an input of its training."""
        source = cfg.MODEL.CLASSIFIER.WEIGHTS
        return [("initial", resolve_weights(source))] if source else []

    def _test_detections(self) -> list[Detection]:
        return [Detection(self.test)] if self.test else []

    def _place(self, output: Path) -> Placement:
        return Placement(output, on_change="redo", overwrite=self.settings.overwrite)

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
