"""The stages that train a model: train (or resume), then detect on the asked data sets."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from weaksam_d2.artifacts import read_json, write_json
from weaksam_d2.cams import check_pretrained
from weaksam_d2.data import describe_boxes
from weaksam_d2.engine.stages.stage import StageResult
from weaksam_d2.engine.training.ema_teacher import load_with_teacher
from weaksam_d2.engine.training.trainer import WeakSAMTrainer, flat_results
from weaksam_d2.wsod import WSODRCNN

logger = logging.getLogger(__name__)
FINAL = "model_final.pth"


@dataclass(frozen=True)
class Detection:
    """One data set to run the trained model on, and the proposals and options for it."""

    dataset: str
    proposals: Path | None = None
    label_filter: bool = False


@dataclass(frozen=True)
class TrainingJob:
    """A frozen config and what to evaluate once it is trained."""

    cfg: Any
    detections: Sequence[Detection] = field(default_factory=tuple)


def train_and_detect(job: TrainingJob, output: Path, resume: bool) -> StageResult:
    """Train into a folder unless that is done, then evaluate each data set that has no results.

    Writes ``model_final.pth``, ``metrics.json`` (training curves) and
    ``inference/<dataset>/{results,detections}.json``, with ``DATASETS.BOXES_TRAIN`` also
    ``box_images.json``. After a kill, training goes on from its last
    checkpoint and evaluation from the first data set without results.
    """
    cfg = job.cfg.clone()
    cfg.OUTPUT_DIR = str(output)
    cfg.freeze()
    start = time.perf_counter()
    if not (output / FINAL).exists():
        _train(cfg, resume)
    seconds = {"train": round(time.perf_counter() - start, 1)}
    start = time.perf_counter()
    model = teacher = None
    for detection in job.detections:
        if (results_file(output, detection.dataset)).exists():
            continue
        if model is None:
            model = build_model(cfg)
            teacher = load_with_teacher(cfg, model, output / FINAL)
        detect(cfg, model, detection, output, teacher)
    seconds["detect"] = round(time.perf_counter() - start, 1)
    counts = {"iterations": cfg.SOLVER.MAX_ITER}
    if cfg.DATASETS.BOXES_TRAIN:  # their ids are in the manifest's output box_images.json
        counts["box_images"] = describe_boxes(cfg)["count"]
    return StageResult(counts=counts, seconds=seconds)


def _train(cfg: Any, resume: bool) -> None:
    """Train; with ``SOLVER.MAX_ITER`` 0 the weights that the model starts with are the result."""
    if cfg.SOLVER.MAX_ITER > 0:
        trainer = WeakSAMTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        return
    model = build_model(cfg)
    checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR)
    if cfg.MODEL.WEIGHTS:
        checkpointer.load(cfg.MODEL.WEIGHTS)
    else:
        check_pretrained(model)
    checkpointer.save(Path(FINAL).stem)


def detect(cfg: Any, model: Any, detection: Detection, output: Path, teacher: Any = None) -> None:
    """Run a model (and its teacher) over one data set; figures go to :func:`results_file`."""
    run = cfg.clone()
    run.defrost()
    run.DATASETS.TEST = (detection.dataset,)
    if detection.proposals is not None:
        run.DATASETS.PROPOSAL_FILES_TEST = (str(detection.proposals),)
    run.MODEL.WSOD.TEST_LABEL_FILTER = detection.label_filter
    run.freeze()
    # WSODRCNN takes the filter from its config; one trained model detects with it and without.
    if isinstance(model, WSODRCNN):
        model.test_label_filter = detection.label_filter
    results = WeakSAMTrainer.test(run, model, teacher)
    write_json(results_file(output, detection.dataset), flat_results(results))


def results_file(output: Path, dataset: str) -> Path:
    """Where the figures of one data set lie in a training stage's folder."""
    return output / "inference" / dataset / "results.json"


def detections_file(output: Path, dataset: str) -> Path:
    """Where the detections on one data set lie in a training stage's folder."""
    return output / "inference" / dataset / "detections.json"


def predicted_labels(output: Path, dataset: str) -> Path:
    """Where a segmenter's label maps of one data set lie in a training stage's folder."""
    return output / "inference" / dataset / "labels"


def read_results(output: Path, dataset: str) -> Mapping[str, float]:
    """Figures of one data set, ``task/metric`` → number (the data set's name is cut off)."""
    prefix = dataset + "/"
    raw = read_json(results_file(output, dataset))
    return {k.removeprefix(prefix): v for k, v in raw.items()}
