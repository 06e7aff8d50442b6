"""The figures of a segmentation run: mIoU of each kind of pseudo label, and of the segmenters."""

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import RunManifest, SemSegLabels
from weaksam_d2.engine.pipeline.figures import detector_figures, is_complete, stage_seconds
from weaksam_d2.engine.pipeline.layout import SegmentationLayout
from weaksam_d2.engine.stages.stage import library_versions
from weaksam_d2.evaluation import LabelFigures, TrueLabels, evaluate_labels, truth_reader

__all__ = ["collect_segmentation_metrics", "label_rows", "teaching_labels", "train_truth"]

Figures = dict[str, Any]
_KEPT = ("mIoU", "mIoU_low", "mIoU_high", "precision", "recall", "ignored_ratio")
_SIDES = ("", "_low", "_high")
BASELINE = "baseline"


def collect_segmentation_metrics(
    cfg: Any, layout: SegmentationLayout, train: str, test: str
) -> Figures:
    """Figures of the stages that are complete, in percent; what was not measured is absent.

    ``labels`` are those of the training images, against label maps that no stage has read.
    """
    metrics: Figures = {}
    metrics["cams"] = detector_figures(layout.classifier, test, {"mAP": "tags/mAP"})
    truth = train_truth(train)
    rows = label_rows(cfg, layout)
    if truth is not None:
        metrics["labels"] = {
            name: _of_labels(folder, truth, cfg.TEST.BOOTSTRAP) for name, folder in rows.items()
        }
    metrics["segment"] = {
        **_segmenter(layout.segmenter, test, "mIoU"),
        **_segmenter(layout.segmenter, train, "train_mIoU"),
        **_segmenter(layout.segmenter_before, test, "mIoU_before"),
        **_segmenter(layout.supervised, test, "mIoU_supervised"),
    }
    metrics = {key: value for key, value in metrics.items() if value}
    metrics["segmenter_labels"] = teaching_labels(cfg)
    metrics["seconds"] = stage_seconds(layout)
    metrics["seconds_per_image"] = _seconds_per_image(rows)
    metrics["versions"] = library_versions()
    return metrics


def teaching_labels(cfg: Any) -> str:
    """The word of ``PIPELINE.LABELS`` that the segmenter learns from."""
    return str(cfg.PIPELINE.SEGMENTER_LABELS) or str(cfg.PIPELINE.LABELS[-1])


def train_truth(train: str) -> TrueLabels | None:
    """The true label maps of the training images, for figures and pictures; None without any."""
    if not MetadataCatalog.get(train).get("sem_seg_evaluation_name", ""):
        return None  # nobody has labeled its pixels: a user's own photographs
    truth = truth_reader(train)
    return truth if truth.image_ids else None


def label_rows(cfg: Any, layout: SegmentationLayout) -> dict[str, Path]:
    """Complete label folders by the name of their row, a baseline's first."""
    rows = {}
    for run, prefix in ((BASELINE, "baseline "), ("", "")):
        for name in cfg.PIPELINE.LABELS:
            folder = layout.run(run).labels(name)
            if is_complete(folder):
                rows[prefix + name] = folder
    return rows


def _of_labels(folder: Path, truth: TrueLabels, bootstrap: int) -> Figures:
    labels = SemSegLabels.open(folder)
    known = set(labels.image_ids)
    ids = [image_id for image_id in truth.image_ids if image_id in known]
    figures: LabelFigures = evaluate_labels(labels, truth, labels.space, image_ids=ids)
    found = figures.summary(bootstrap=bootstrap)
    return {
        name: round(found[name], 2) for name in _KEPT if name in found and np.isfinite(found[name])
    }


def _segmenter(folder: Path, dataset: str, name: str) -> Figures:
    """mIoU of a complete segmenter on one data set, with its interval."""
    return detector_figures(folder, dataset, {name + s: f"sem_seg/mIoU{s}" for s in _SIDES})


def _seconds_per_image(rows: dict[str, Path]) -> dict[str, float]:
    """What a label costs, from the manifests; the stages before it not counted."""
    seconds = {}
    for name, folder in rows.items():
        manifest = RunManifest.read(folder / "manifest.json")
        images = max(1, int(manifest.counts.get("images", 0)))
        seconds[name] = round(manifest.seconds.get("total", 0.0) / images, 4)
    return seconds
