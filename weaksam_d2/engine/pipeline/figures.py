"""The figures of a run: ``metrics.json``, its table, and curves for the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from weaksam_d2.artifacts import ProposalStore, RunManifest, read_json, read_pseudo_gt
from weaksam_d2.engine.dataset_choice import annotated_records
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.pipeline.rounds import complete_rounds
from weaksam_d2.engine.stages.stage import library_versions
from weaksam_d2.engine.stages.training_stage import read_results, results_file
from weaksam_d2.engine.training.ema_teacher import TEACHER_ROW
from weaksam_d2.evaluation import covered_iou, evaluate_store, recall_by_count, store_boxes
from weaksam_d2.evaluation import recall_curve as iou_curve
from weaksam_d2.pseudo_gt import analyze_pseudo_gt

Figures = dict[str, Any]
COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def collect_metrics(cfg: Any, layout: Layout, train: str, test: str) -> Figures:
    """Figures of the stages that are complete, in percent; what was not measured is absent."""
    truth, test_truth = annotated_records(train), annotated_records(test)
    metrics: Figures = {}
    if truth:
        metrics["proposals"] = _proposal_figures(cfg, layout, train, truth)
        metrics["pgt"] = _pseudo_gt_figures(layout, truth)
    if test_truth:
        metrics["proposals_test"] = _proposal_figures(cfg, layout, test, test_truth)
    metrics["cams"] = detector_figures(layout.classifier, test, {"mAP": "tags/mAP"})
    metrics["wsod"] = {
        **detector_figures(layout.wsod, test, _with_interval("AP50", "bbox/AP50")),
        **detector_figures(layout.wsod, train, _with_interval("CorLoc", "corloc/CorLoc")),
    }
    metrics["retrain"] = {
        **detector_figures(layout.retrain, test, {"AP": "coco_bbox/AP"}),
        **detector_figures(layout.retrain, test, {"AP": "bbox/AP"}),
        **detector_figures(layout.retrain, test, _with_interval("AP50", "bbox/AP50")),
        **detector_figures(
            layout.root / "retrain_without_roi_drop",
            test,
            {"AP50_without_roi_drop": "bbox/AP50"},
        ),
        **detector_figures(layout.retrain, test, {"AP50_ema": f"{test}{TEACHER_ROW}/bbox/AP50"}),
        **detector_figures(layout.root / "retrain_top1", test, {"AP50_top1": "bbox/AP50"}),
    }
    metrics["supervised"] = detector_figures(
        layout.supervised, test, _with_interval("AP50", "bbox/AP50")
    )
    ours, full = metrics["retrain"].get("AP50"), metrics["supervised"].get("AP50")
    if ours is not None and full:
        metrics["retrain"]["share_of_supervised_AP50"] = round(100 * ours / full, 2)
    metrics["rounds"] = _round_figures(cfg, layout, test, truth)
    metrics["masks"] = _mask_figures(cfg, layout, test)
    metrics = {key: value for key, value in metrics.items() if value}
    metrics["seconds"] = stage_seconds(layout)
    metrics["versions"] = library_versions()
    return metrics


def _round_figures(
    cfg: Any, layout: Layout, test: str, truth: Sequence[Mapping[str, Any]]
) -> Figures:
    """Of each round of self-training: its detector, and the labels that it was trained on."""
    numbers = complete_rounds(layout)[: cfg.PIPELINE.ROUNDS]
    wanted = {"AP": "bbox/AP", **_with_interval("AP50", "bbox/AP50")}
    figures: Figures = {}
    for number in numbers if len(numbers) > 1 else ():
        own = layout.round(number)
        labels = _label_figures(own.pseudo_gt(cfg.WEAKSAM.PSEUDO_GT.RULE), truth) if truth else {}
        detector = detector_figures(own.retrain, test, wanted)
        figures[str(number)] = {**detector, **{f"labels_{k}": v for k, v in labels.items()}}
    return figures


def _mask_figures(cfg: Any, layout: Layout, test: str) -> Figures:
    """Mask AP of the detector with masks and of SAM on detected boxes, and what the truth is."""
    names = ["AP", *(f"AP{100 * iou:g}" for iou in cfg.TEST.MASK_IOUS)]
    wanted = {end: f"segm/{end}" for n in names for end in (n, f"{n}_low", f"{n}_high")}
    figures = detector_figures(layout.mask_detector, test, wanted)
    path = layout.box_to_mask_figures / "results.json"
    if is_complete(layout.box_to_mask_figures) and path.exists():
        baseline = read_json(path)
        found = {name: baseline.get(f"{test}/segm/{name}", np.nan) for name in names}
        figures |= {f"{k}_box_to_mask": v for k, v in _rounded(found).items()}
    twin = MetadataCatalog.get(test).get("mask_evaluation_name", "") if test else ""
    truth = MetadataCatalog.get(twin).get("mask_truth", "") if twin else ""
    return {**figures, "truth": truth} if figures and truth else figures


def _with_interval(name: str, key: str) -> dict[str, str]:
    return {name: key, f"{name}_low": f"{key}_low", f"{name}_high": f"{key}_high"}


def detector_figures(folder: Path, dataset: str, wanted: Mapping[str, str]) -> Figures:
    """The wanted figures (name → task/metric) of a complete training stage."""
    if not dataset or not is_complete(folder) or not results_file(folder, dataset).exists():
        return {}
    results = read_results(folder, dataset)
    return {
        name: round(float(results[key]), 2)
        for name, key in wanted.items()
        if key in results and np.isfinite(results[key])
    }


def is_complete(folder: Path) -> bool:
    """Whether a stage has published its artifact in a folder."""
    path = folder / "manifest.json"
    return path.exists() and RunManifest.read(path).status == "complete"


def _proposal_figures(
    cfg: Any, layout: Layout, dataset: str, truth: Sequence[Mapping[str, Any]]
) -> Figures:
    figures: Figures = {}
    options = {"ious": cfg.TEST.RECALL_IOUS, "match": cfg.TEST.RECALL_MATCH}
    limit = None
    if is_complete(layout.proposals(dataset)):
        store = ProposalStore.open(layout.proposals(dataset))
        figures["weaksam"] = _rounded(evaluate_store(store, truth, **options))
        limit = [len(store[str(record["image_id"])].boxes) for record in truth]
    if is_complete(layout.selective_search(dataset)):
        store = ProposalStore.open(layout.selective_search(dataset))
        figures["selective_search"] = _rounded(evaluate_store(store, truth, **options))
        if limit is not None:
            equal = evaluate_store(store, truth, limit=limit, **options)
            figures["selective_search_equal_count"] = _rounded(equal)
    return figures


def _pseudo_gt_figures(layout: Layout, truth: Sequence[Mapping[str, Any]]) -> Figures:
    figures = {rule: _label_figures(layout.pseudo_gt(rule), truth) for rule in ("adaptive", "top1")}
    return {rule: found for rule, found in figures.items() if found}


def _label_figures(folder: Path, truth: Sequence[Mapping[str, Any]]) -> Figures:
    if not is_complete(folder):
        return {}
    found = analyze_pseudo_gt(read_pseudo_gt(folder / "pseudo_gt.json"), truth)
    return _rounded({key: found[key] for key in ("precision", "recall", "boxes_per_image")})


def _rounded(figures: Mapping[str, float]) -> Figures:
    return {key: round(float(value), 2) for key, value in figures.items() if np.isfinite(value)}


def stage_seconds(layout: Layout) -> dict[str, float]:
    """Seconds of each stage over all its artifacts, from their manifests."""
    seconds: dict[str, float] = {}
    depths = ["*", "*/*", "rounds/*/*", "rounds/*/*/*"]
    for path in (p for depth in depths for p in sorted(layout.root.glob(f"{depth}/manifest.json"))):
        stage = path.relative_to(layout.root).parts[0]
        if stage.endswith(".parts") or path.parent.name.endswith(".parts"):
            continue
        manifest = RunManifest.read(path)
        if manifest.status == "complete":
            total = manifest.seconds.get("total", 0.0)
            seconds[stage] = round(seconds.get(stage, 0.0) + total, 1)
    return seconds


def recall_curve(layout: Layout, dataset: str) -> dict[str, dict[str, list[float]]]:
    """Recall against IoU, for each kind of proposals."""
    truth = annotated_records(dataset)
    return {
        name: iou_curve(covered_iou(objects, boxes, match="one2one"))
        for name, (objects, boxes) in _stores(layout, dataset, truth).items()
    }


def recall_at_counts(layout: Layout, dataset: str) -> dict[str, dict[str, list[float]]]:
    """Recall at IoU .5 against the number of boxes, for each kind of proposals."""
    truth = annotated_records(dataset)
    return {
        name: recall_by_count(objects, boxes, COUNTS)
        for name, (objects, boxes) in _stores(layout, dataset, truth).items()
        if "equal" not in name
    }


def _stores(
    layout: Layout, dataset: str, truth: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
    found: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {}
    if not truth:
        return found
    if is_complete(layout.proposals(dataset)):
        found["WeakSAM"] = store_boxes(ProposalStore.open(layout.proposals(dataset)), truth)
    if is_complete(layout.selective_search(dataset)):
        store = ProposalStore.open(layout.selective_search(dataset))
        found["Selective Search"] = store_boxes(store, truth)
        if "WeakSAM" in found:
            limit = [len(boxes) for boxes in found["WeakSAM"][1]]
            found["Selective Search, equal count"] = store_boxes(store, truth, limit=limit)
    return found


def metrics_table(metrics: Mapping[str, Any]) -> str:
    """The figures as a plain-text table."""
    rows = []
    for section, figures in metrics.items():
        if section in ("seconds", "seconds_per_image", "versions", "segmenter_labels"):
            continue
        for name, value in figures.items():
            inner = value if isinstance(value, Mapping) else {"": value}
            for key, number in inner.items():
                rows.append([section, name, key, number])
    table = tabulate(rows, headers=["stage", "figure", "", "%"], floatfmt=".2f")
    seconds = metrics.get("seconds", {})
    times = tabulate(list(seconds.items()), headers=["stage", "seconds"], floatfmt=".0f")
    return f"\n{table}\n\n{times}\n"
