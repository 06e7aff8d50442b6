"""Self-training: the retrained detector labels the training images again and a new one learns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from weaksam_d2.artifacts import RunManifest
from weaksam_d2.data import weak_records
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.stage import StageResult, run_stage
from weaksam_d2.engine.stages.training_stage import FINAL, Detection, detect, results_file

__all__ = ["check_rounds", "complete_rounds", "relabel_stage", "round_table"]


def check_rounds(cfg: Any) -> None:
    """Raise ValueError for ``PIPELINE.ROUNDS`` below 1."""
    if cfg.PIPELINE.ROUNDS < 1:
        raise ValueError(
            f"PIPELINE.ROUNDS is {cfg.PIPELINE.ROUNDS}, expected 1 (no self-training) or more"
        )


def relabel_stage(
    cfg: Any, dataset: str, detector: Path, place: Placement, described: Mapping[str, Any]
) -> RunManifest:
    """Detections of a retrained detector on the tagged training images.

    Args:
        cfg: of the retraining stage.
        dataset: the weak training set; its tags are read by the evaluator's CorLoc and by the
            rule that makes labels of the detections, never by the detector.
        detector: folder of a retraining stage.
        place: where; gets ``inference/<dataset>/{detections,results}.json``.
        described: the data set's block of the manifest.
    """
    request = place.request("relabel", cfg, described, [("detector", detector / FINAL)])

    def body(output: Path, resume: bool) -> StageResult:
        run = cfg.clone()
        run.OUTPUT_DIR = str(output)
        if not results_file(output, dataset).exists():
            model = build_model(run)
            DetectionCheckpointer(model).load(str(detector / FINAL))
            detect(run, model, Detection(dataset, label_filter=True), output)
        return StageResult(counts={"images": len(weak_records(dataset))})

    return run_stage(request, body)


def complete_rounds(layout: Layout) -> list[int]:
    """Numbers of the rounds from 1 whose detector is complete, without a gap."""
    found: list[int] = []
    while True:
        path = layout.round(len(found) + 1).retrain / "manifest.json"
        if not path.exists() or RunManifest.read(path).status != "complete":
            return found
        found.append(len(found) + 1)


def round_table(rounds: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the figures ``{"1": {name: percent}}`` of rounds, for a report."""
    names = list(dict.fromkeys(name for figures in rounds.values() for name in figures))
    names = [name for name in names if not name.endswith(("_low", "_high"))]
    rows = [[number, *(figures.get(n) for n in names)] for number, figures in rounds.items()]
    return ["round", *(name.replace("_", " ") for name in names)], rows
