"""Gather what a segmentation run made and write its page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import CamStore, ProposalStore, SemSegLabels
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.pipeline.layout import SegmentationLayout
from weaksam_d2.engine.pipeline.report import evenly, open_artifact, training_curve
from weaksam_d2.engine.pipeline.segmentation_figures import label_rows, train_truth
from weaksam_d2.engine.stages.training_stage import predicted_labels
from weaksam_d2.evaluation import evaluate_labels
from weaksam_d2.visualization import (
    Panel,
    Report,
    Table,
    draw_cams,
    draw_labels,
    draw_mask_set,
    write_report,
)

__all__ = ["write_segmentation_report"]

_COLUMNS = {
    "mIoU": "mIoU",
    "mIoU_low": "low",
    "mIoU_high": "high",
    "precision": "precision",
    "recall": "recall",
    "ignored_ratio": "without label",
}


def write_segmentation_report(
    cfg: Any, layout: SegmentationLayout, train: str, test: str, metrics: Mapping[str, Any]
) -> None:
    """Write ``report.html`` from the artifacts that exist; a stage that did not run is left out."""
    count = cfg.PIPELINE.REPORT_IMAGES
    panels = _train_panels(cfg, layout, train, count)
    panels += _test_panels(layout, test, count) if test else []
    curves = {"cams": layout.classifier, "segment": layout.segmenter}
    report = Report(
        title="From image tags to a segmenter",
        subtitle=" → ".join(n.removesuffix("_weak") for n in (train, test) if n),
        description=_description(train, test),
        metrics=metrics,
        training={
            section: training_curve(folder / "metrics.json")
            for section, folder in curves.items()
            if (folder / "metrics.json").exists()
        },
        panels=panels,
        tables=[*_label_tables(metrics), *_class_tables(cfg, layout, train)],
        notes=_notes(cfg),
    )
    write_report(layout.report, report)


def _description(train: str, test: str) -> str:
    records, names = weak_records(train), MetadataCatalog.get(train).thing_classes
    text = f"{len(records)} training images with image-level tags only ({', '.join(names)})"
    if test:
        text += f"; {len(weak_records(test))} held-out images for evaluation"
    return text + ". True label maps are read by the evaluators and by no other stage."


def _notes(cfg: Any) -> list[str]:
    sam, grid = cfg.WEAKSAM.SAM, cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE
    notes = [f"Background of the maps' labels: {cfg.WEAKSAM.LABELS.BACKGROUND}, fixed beforehand."]
    if cfg.WEAKSAM.PROPOSALS.SAVE_MASKS:
        notes.append(f"SAM {sam.ARCH}, input {sam.INPUT_SIZE} px, grid {grid} × {grid}.")
    return [*notes, f"Seed {cfg.SEED}; intervals are over the images (95 %)."]


def _label_tables(metrics: Mapping[str, Any]) -> list[Table]:
    rows = metrics.get("labels", {})
    shown = [c for c in _COLUMNS if any(c in figures for figures in rows.values())]
    if not shown:
        return []
    cells = [[name, *(figures.get(c) for c in shown)] for name, figures in rows.items()]
    note = "Training images; precision and recall are means over the classes."
    columns = ["", *(_COLUMNS[c] for c in shown)]
    return [Table("Pseudo labels against true label maps (%)", columns, cells, note, "labels")]


def _class_tables(cfg: Any, layout: SegmentationLayout, train: str) -> list[Table]:
    """What each class misses and what is wrongly given to it, before and after."""
    truth, rows = train_truth(train), label_rows(cfg, layout)
    if truth is None or not rows:
        return []
    names = [name for name in rows if not name.startswith("baseline")] or list(rows)
    found = {}
    for name in dict.fromkeys((names[0], names[-1])):
        labels = SemSegLabels.open(rows[name])
        ids = [i for i in truth.image_ids if i in set(labels.image_ids)]
        found[name] = evaluate_labels(labels, truth, labels.space, image_ids=ids).per_class()
    kinds = {"IoU": "IoU", "miss_rate": "missed", "false_discovery_rate": "wrong"}
    columns = ["", *(f"{title}, {name}" for name in found for title in kinds.values())]
    cells = [
        [cls, *(figures[cls][kind] for figures in found.values() for kind in kinds)]
        for cls in truth.space.classes
    ]
    note = "Missed: share of the true pixels; wrong: share of the labeled pixels."
    return [Table("Each class (%)", columns, cells, note, "labels")]


def _train_panels(cfg: Any, layout: SegmentationLayout, train: str, count: int) -> list[Panel]:
    """Image, map, SAM's masks, each kind of label, the segmenter's, the truth."""
    names = MetadataCatalog.get(train).thing_classes
    cams = open_artifact(CamStore.open, layout.cams(train))
    masks = open_artifact(ProposalStore.open, layout.sam_masks(train))
    rows: dict[str, Any] = {
        name: SemSegLabels.open(folder) for name, folder in label_rows(cfg, layout).items()
    }
    rows |= _segmented({"segmenter": layout.segmenter}, train)
    truth = train_truth(train)
    known = set(truth.image_ids) if truth is not None else set()
    panels = []
    for record in evenly([r for r in weak_records(train) if r["image_labels"]], count):
        image_id, image = str(record["image_id"]), read_image(record["file_name"])
        pairs = [("image", image)]
        if cams is not None:
            pairs.append(("map", draw_cams(image, cams[image_id], class_names=names)))
        if masks is not None:
            pairs.append(("SAM masks", draw_mask_set(image, masks[image_id])))
        pairs += [
            (name, draw_labels(image, labels[image_id], labels.space))
            for name, labels in rows.items()
        ]
        if truth is not None and image_id in known:
            pairs.append(("true labels", draw_labels(image, truth(image_id), truth.space)))
        tags = ", ".join(names[c] for c in record["image_labels"])
        panels.append(Panel(image_id, pairs, note=f"tags: {tags}", section="labels"))
    return panels


def _test_panels(layout: SegmentationLayout, test: str, count: int) -> list[Panel]:
    folders: Mapping[str, Path] = {
        "on the first labels": layout.segmenter_before,
        "segmenter": layout.segmenter,
        "on true labels": layout.supervised,
    }
    rows = _segmented(folders, test)
    truth = train_truth(test)
    panels = []
    for record in evenly(weak_records(test), count) if rows else ():
        image_id, image = str(record["image_id"]), read_image(record["file_name"])
        pairs = [("image", image)]
        pairs += [
            (name, draw_labels(image, labels[image_id], labels.space))
            for name, labels in rows.items()
        ]
        if truth is not None and image_id in truth.image_ids:
            pairs.append(("true labels", draw_labels(image, truth(image_id), truth.space)))
        panels.append(Panel(image_id, pairs, section="segment"))
    return panels


def _segmented(folders: Mapping[str, Path], dataset: str) -> dict[str, SemSegLabels]:
    """The label maps that segmenters gave the images of a data set, where they did."""
    paths = {name: predicted_labels(folder, dataset) for name, folder in folders.items()}
    return {
        name: SemSegLabels.open(path)
        for name, path in paths.items()
        if (path / "labels.json").exists()
    }
