"""Gather what a run made and write its page."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import (
    CamStore,
    CategoryMap,
    PromptSet,
    ProposalStore,
    read_detections,
    read_pseudo_gt,
)
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.analysis.artifact_pictures import by_image
from weaksam_d2.engine.dataset_choice import annotated_records
from weaksam_d2.engine.pipeline.figures import recall_at_counts, recall_curve
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.mask_panels import mask_panels
from weaksam_d2.engine.pipeline.rounds import round_table
from weaksam_d2.engine.stages.training_stage import detections_file
from weaksam_d2.evaluation import find_failures
from weaksam_d2.visualization import (
    Panel,
    Report,
    Table,
    draw_boxes,
    draw_cams,
    draw_detections,
    draw_prompts,
    draw_proposals,
    draw_pseudo_gt,
    write_report,
)

Annotated = Mapping[str, Sequence[Mapping[str, Any]]]


def write_pipeline_report(
    cfg: Any, layout: Layout, train: str, test: str, metrics: Mapping[str, Any]
) -> None:
    """Write ``report.html`` from the artifacts that exist; a stage that did not run is left out."""
    count = cfg.PIPELINE.REPORT_IMAGES
    panels = _train_panels(layout, train, count)
    if test:
        panels += _test_panels(layout, test, count)
    panels += mask_panels(layout, train, test, count)
    report = Report(
        title="From image tags to a detector",
        subtitle=" → ".join(n.removesuffix("_weak") for n in (train, test) if n),
        description=_description(train, test),
        metrics=metrics,
        recall_curves=recall_curve(layout, train),
        recall_counts=recall_at_counts(layout, train),
        training={
            section: training_curve(folder / "metrics.json")
            for section, folder in (
                ("cams", layout.classifier),
                ("wsod", layout.wsod),
                ("retrain", layout.retrain),
                ("masks", layout.mask_detector),
            )
            if (folder / "metrics.json").exists()
        },
        panels=panels,
        failures=_failures(layout, test) if test else (),
        tables=_tables(metrics),
        notes=_notes(cfg),
    )
    write_report(layout.report, report)


def _tables(metrics: Mapping[str, Any]) -> list[Table]:
    if "rounds" not in metrics:
        return []
    columns, rows = round_table(metrics["rounds"])
    note = "Round 1 learns from the weak detector's labels, each later one from the round before."
    return [Table("Rounds (%)", columns, rows, note, section="rounds")]


def _description(train: str, test: str) -> str:
    records, names = weak_records(train), MetadataCatalog.get(train).thing_classes
    text = f"{len(records)} training images with image-level tags only ({', '.join(names)})"
    if test:
        text += f"; {len(weak_records(test))} held-out images for evaluation"
    return text + ". True boxes are read by the evaluators and never by a weakly supervised stage."


def _notes(cfg: Any) -> list[str]:
    sam, grid = cfg.WEAKSAM.SAM, cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE
    return [
        f"SAM {sam.ARCH}, input {sam.INPUT_SIZE} px, grid {grid} × {grid}; seed {cfg.SEED}.",
        "Maps and proposals of the held-out images use predicted classes, not their tags.",
        "External knowledge: SAM (trained on SA-1B masks) and ImageNet classification weights.",
    ]


def training_curve(path: Path) -> list[dict[str, Any]]:
    """Rows of a training stage's ``metrics.json``."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` items, evenly spread over the list."""
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _train_panels(layout: Layout, train: str, count: int) -> list[Panel]:
    records = [r for r in evenly(weak_records(train), 4 * count) if r["image_labels"]]
    meta = MetadataCatalog.get(train)
    categories = CategoryMap.from_metadata(meta).categories()
    names = meta.thing_classes
    cams = open_artifact(CamStore.open, layout.cams(train))
    prompts = open_artifact(PromptSet.open, layout.prompts(train))
    ours = open_artifact(ProposalStore.open, layout.proposals(train))
    baseline = open_artifact(ProposalStore.open, layout.selective_search(train))
    labels = {
        rule: by_image(read_pseudo_gt(path).annotations)
        for rule in ("top1", "adaptive")
        if (path := layout.pseudo_gt(rule) / "pseudo_gt.json").exists()
    }
    panels: list[Panel] = []
    for record in evenly(records, count):
        image_id, image = record["image_id"], read_image(record["file_name"])
        tags = ", ".join(names[c] for c in record["image_labels"])
        if cams is not None and prompts is not None and len(panels) < 12:
            heat = draw_cams(image, cams[image_id], class_names=names)
            points = draw_prompts(image, prompts[image_id], class_names=names)
            pairs = [("activation maps", heat), ("prompts (peaks)", points)]
            panels.append(Panel(image_id, pairs, note=f"tags: {tags}", section="cams"))
        if ours is not None:
            pairs = [(f"WeakSAM, {len(ours[image_id].boxes)} boxes", _draw(ours, image_id, image))]
            if baseline is not None:
                limit = len(ours[image_id].boxes)
                theirs = draw_proposals(image, baseline[image_id], limit=limit)
                pairs.insert(0, (f"Selective Search, first {limit}", theirs))
            panels.append(Panel(image_id, pairs, note=f"tags: {tags}", section="proposals"))
        if labels:
            pairs = [
                (rule, draw_pseudo_gt(image, rows.get(image_id, []), categories=categories))
                for rule, rows in labels.items()
            ]
            panels.append(Panel(image_id, pairs, note=f"tags: {tags}", section="pgt"))
    return panels


def _draw(store: ProposalStore, image_id: str, image: np.ndarray) -> np.ndarray:
    return draw_proposals(image, store[image_id])


def _test_panels(layout: Layout, test: str, count: int) -> list[Panel]:
    detected = _detected(layout, test)
    if not detected:
        return []
    categories = CategoryMap.from_metadata(MetadataCatalog.get(test)).categories()
    truth = {str(r["image_id"]): r for r in annotated_records(test)}
    panels = []
    for record in evenly(weak_records(test), count):
        image_id, image = record["image_id"], read_image(record["file_name"])
        pairs = [
            (name, _draw_best(image, rows.get(image_id, []), categories))
            for name, rows in detected.items()
        ]
        if image_id in truth:
            pairs.append(("true boxes", _draw_truth(image, truth[image_id], categories)))
        panels.append(Panel(image_id, pairs, section="retrain"))
    return panels


def _detected(layout: Layout, test: str) -> dict[str, Annotated]:
    folders = {"WSOD": layout.wsod, "retrained": layout.retrain}
    return {
        name: by_image(read_detections(detections_file(folder, test)))
        for name, folder in folders.items()
        if detections_file(folder, test).exists()
    }


def _draw_best(image: np.ndarray, rows: Sequence[Any], categories: Sequence[Any]) -> np.ndarray:
    """The best box and those that score at least half as much; scores of detectors differ."""
    best = max((row["score"] for row in rows), default=0.0)
    return draw_detections(image, rows, categories=categories, score_thresh=best / 2, limit=8)


def _draw_truth(
    image: np.ndarray, record: Mapping[str, Any], categories: Sequence[Mapping[str, Any]]
) -> np.ndarray:
    rows = record["annotations"]
    return draw_boxes(
        image,
        np.asarray([row["bbox"] for row in rows], np.float32).reshape(-1, 4),
        colors=[(1.0, 1.0, 1.0)] * len(rows),
        labels=[categories[row["category_id"]]["name"] for row in rows],
    )


def _failures(layout: Layout, test: str) -> list[Panel]:
    detected = _detected(layout, test).get("retrained")
    if detected is None:
        return []
    meta = MetadataCatalog.get(test)
    categories = CategoryMap.from_metadata(meta)
    records = annotated_records(test)
    arrays = {image_id: _arrays(rows, categories) for image_id, rows in detected.items()}
    found = find_failures(arrays, records, meta.thing_classes, score_thresh=0.9)
    by_id = {str(r["image_id"]): r for r in records}
    panels = []
    for failure in found[:8]:
        record = by_id[failure.image_id]
        image = read_image(record["file_name"])
        rows = detected.get(failure.image_id, [])
        pairs = [
            ("retrained", _draw_best(image, rows, categories.categories())),
            ("true boxes", _draw_truth(image, record, categories.categories())),
        ]
        panels.append(Panel(failure.image_id, pairs, note=f"{failure.kind}: {failure.reason}"))
    return panels


def _arrays(rows: Iterable[Mapping[str, Any]], categories: CategoryMap) -> dict[str, np.ndarray]:
    rows = list(rows)
    boxes = np.asarray([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return {
        "boxes": boxes,
        "scores": np.asarray([row["score"] for row in rows], np.float32),
        "classes": np.asarray(
            [categories.to_contiguous(row["category_id"]) for row in rows], np.int64
        ),
    }


def open_artifact(open_store: Callable[[Path], Any], path: Path) -> Any:
    """The artifact in a folder, None where a stage has not made one."""
    return open_store(path) if (path / "manifest.json").exists() else None
