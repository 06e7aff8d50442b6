"""The figures of ``metrics.json`` as cards, pipeline steps and tables of a report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weaksam_d2.visualization.contents import Table

__all__ = ["cards", "metric_tables", "pipeline_steps"]

_METHODS = {
    "weaksam": "WeakSAM",
    "selective_search": "Selective Search",
    "selective_search_equal_count": "Selective Search, equal count",
    "adaptive": "adaptive",
    "top1": "top-1",
}
_COLUMNS = {
    "recall50": "recall at .5",
    "recall75": "recall at .75",
    "recall90": "recall at .9",
    "per_image": "boxes per image",
    "precision": "precision",
    "recall": "recall",
    "boxes_per_image": "boxes per image",
}
_FIGURES = {
    "AP50_without_roi_drop": "AP50 without RoI drop",
    "AP50_top1": "AP50 on top-1 labels",
    "share_of_supervised_AP50": "share of the AP50 of true boxes",
    "mAP": "tag mAP",
}


def cards(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Headline figures that were measured: ``{"label", "value", "interval", "note"}`` texts."""
    return [card for card in _cards(metrics) if card["value"]]


def _cards(metrics: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    ours, baseline = (
        _node(metrics, "proposals", name) for name in ("weaksam", "selective_search_equal_count")
    )
    name = "Selective Search, equal count"
    if "recall75" not in baseline:
        baseline, name = _node(metrics, "proposals", "selective_search"), "Selective Search"
    count = _text(ours.get("per_image"), "{:.0f} boxes per image")
    versus = _text(baseline.get("recall75"), name + " {:.1f}")
    yield _card("Recall at IoU .75", ours, "recall75", _join(count, versus))
    wsod = _node(metrics, "wsod")
    yield _card("Weak detector AP50", wsod, "AP50", "image tags only")
    yield _card("Weak detector CorLoc", wsod, "CorLoc", "on training images")
    adaptive, top1 = _node(metrics, "pgt", "adaptive"), _node(metrics, "pgt", "top1")
    recall = _text(adaptive.get("recall"), "recall {:.1f}")
    against = _text(top1.get("recall"), "top-1 recall {:.1f}")
    yield _card("Pseudo label precision", adaptive, "precision", _join(recall, against))
    retrain = _node(metrics, "retrain")
    full = _text(_node(metrics, "supervised").get("AP50"), "true boxes {:.1f}")
    note = _join(_text(retrain.get("AP"), "AP {:.1f}"), full)
    yield _card("Retrained AP50", retrain, "AP50", note)
    masks = _node(metrics, "masks")
    yield _card("Mask AP50", masks, "AP50", _text(masks.get("AP75"), "AP75 {:.1f}"))
    labels, chosen = metrics.get("labels", {}), metrics.get("segmenter_labels", "")
    first = next(iter(labels), "")
    before = _text(_node(labels, first).get("mIoU"), first + " {:.1f}") if first != chosen else ""
    yield _card("Pseudo label mIoU", _node(labels, chosen), "mIoU", _join(chosen, before))
    segment = _node(metrics, "segment")
    note = _text(segment.get("mIoU_supervised"), "true labels {:.1f}")
    yield _card("Segmenter mIoU", segment, "mIoU", note)


def pipeline_steps(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Stages that took part, in order: ``{"name", "figure", "seconds"}`` texts."""
    seconds = metrics.get("seconds", {})
    names = {
        "cams": "Activation maps",
        "prompts": "Prompts",
        "proposals": "Proposals",
        "wsod": "Weak detector",
        "pseudo_gt": "Pseudo labels",
        "masks": "Masks",
        "retrain": "Retraining",
        "sam_masks": "SAM masks",
        "labels": "Pseudo labels",
        "segment": "Segmenter",
    }
    figures: Mapping[str, str] = {
        "proposals": _text(
            _node(metrics, "proposals", "weaksam").get("per_image"), "{:.0f} boxes per image"
        ),
        "wsod": _text(_node(metrics, "wsod").get("AP50"), "AP50 {:.1f}"),
        "pseudo_gt": _text(
            _node(metrics, "pgt", "adaptive").get("boxes_per_image"), "{:.1f} boxes per image"
        ),
        "retrain": _text(_node(metrics, "retrain").get("AP50"), "AP50 {:.1f}"),
        "segment": _text(_node(metrics, "segment").get("mIoU"), "mIoU {:.1f}"),
    }
    return [
        {"name": title, "figure": figures.get(key, ""), "seconds": _duration(seconds.get(key))}
        for key, title in names.items()
        if key in seconds or figures.get(key)
    ]


def metric_tables(metrics: Mapping[str, Any], section: str) -> Iterator[Table]:
    """Tables of the figures of one section, without columns that were not measured."""
    if section == "proposals":
        columns: Sequence[str] = ("recall50", "recall75", "recall90", "per_image")
        note = "Share of objects that a box covers; one box covers one object."
        for name, images in (("proposals", "training"), ("proposals_test", "held-out")):
            title = f"Recall by proposals, {images} images (%)"
            yield from _comparison(_node(metrics, name), title, columns, note)
    elif section == "pgt":
        columns = ("precision", "recall", "boxes_per_image")
        title, note = "Pseudo labels against true boxes (%)", "A label is right at IoU .5."
        yield from _comparison(_node(metrics, "pgt"), title, columns, note)
    else:
        yield from _detector_table(metrics, section)


def _comparison(
    methods: Mapping[str, Any], title: str, columns: Sequence[str], note: str
) -> Iterator[Table]:
    """Methods in rows, figures in columns; nothing if there is no figure."""
    shown = [c for c in columns if any(_finite(row.get(c)) for row in methods.values())]
    rows = [
        [_METHODS.get(name, name), *(row.get(column) for column in shown)]
        for name, row in methods.items()
    ]
    if shown:
        yield Table(title, ["", *(_COLUMNS[column] for column in shown)], rows, note)


def _detector_table(metrics: Mapping[str, Any], section: str) -> Iterator[Table]:
    """Figures of a trained detector, with intervals in their cells."""
    node = _node(metrics, section)
    bounds = {f"{key}{end}" for key in node for end in ("_low", "_high")}
    rows = [
        [_FIGURES.get(key, key.replace("_", " ")), float(value), _interval(node, key) or None]
        for key, value in node.items()
        if _finite(value) and key not in bounds
    ]
    twin = _node(metrics, "supervised")
    if section == "retrain" and _finite(twin.get("AP50")):
        rows.append(
            ["AP50 of training on true boxes", float(twin["AP50"]), _interval(twin, "AP50")]
        )
    if rows:
        with_interval = any(row[2] for row in rows)
        columns = ["", "value", "95 % interval"] if with_interval else ["", "value"]
        title = ", ".join(["Figures (%)", *([node["truth"]] if "truth" in node else [])])
        yield Table(title, columns, [row[: len(columns)] for row in rows])


def _card(label: str, node: Mapping[str, Any], key: str, note: str) -> dict[str, str]:
    value = _text(node.get(key), "{:.1f}")
    return {"label": label, "value": value, "interval": _interval(node, key), "note": note}


def _interval(node: Mapping[str, Any], key: str) -> str:
    low, high = node.get(f"{key}_low"), node.get(f"{key}_high")
    return f"{low:.1f}–{high:.1f}" if _finite(low) and _finite(high) else ""


def _node(metrics: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    for name in path:
        metrics = metrics.get(name, {})
    return metrics


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _text(value: Any, form: str) -> str:
    return form.format(value) if _finite(value) else ""


def _join(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _duration(seconds: Any) -> str:
    if not _finite(seconds):
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
