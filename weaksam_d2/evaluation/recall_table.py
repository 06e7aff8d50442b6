"""Several kinds of proposals beside each other: every figure of recall, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam_d2.evaluation.bootstrap import bootstrap_intervals
from weaksam_d2.evaluation.collect import GroundTruth
from weaksam_d2.evaluation.coverage import (
    ALL,
    Coverage,
    measure_coverage,
    object_values,
    per_image_sums,
)
from weaksam_d2.evaluation.recall import recall_curve, recall_groups, recall_key
from weaksam_d2.evaluation.store_views import StoreView

__all__ = ["RecallSettings", "measure_views", "recall_table", "table_rows"]

Figures = dict[str, Any]


@dataclass(frozen=True)
class RecallSettings:
    """What a table of recall measures.

    Args:
        ious: thresholds of recall; covered at IoU *at least* this.
        average_counts: N of AR@N.
        fixed_counts: recall with the first N boxes of each image.
        curve_counts: N of the curve over the number of proposals.
        class_names: for recall by class.
        resamples: of the images, for 95 % intervals; 0: none.
    """

    ious: tuple[float, ...] = (0.5, 0.75, 0.9)
    average_counts: tuple[int, ...] = (100, 1000)
    fixed_counts: tuple[int, ...] = (250, 1000, 2000)
    curve_counts: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
    class_names: tuple[str, ...] = ()
    resamples: int = 0
    seed: int = 0


def measure_views(
    views: Sequence[StoreView],
    truth: Sequence[GroundTruth],
    image_ids: Sequence[str],
    settings: RecallSettings,
) -> list[Coverage]:
    """Coverage of the objects by each view; ``truth`` and ``image_ids`` are of the same images.

    Raises:
        KeyError: an image that a store does not hold.
    """
    limits = {*settings.average_counts, *settings.fixed_counts, *settings.curve_counts}
    return [
        measure_coverage(view.name, truth, map(view.boxes, image_ids), limits=sorted(limits))
        for view in views
    ]


def recall_table(
    coverages: Sequence[Coverage], truth: Sequence[GroundTruth], settings: RecallSettings
) -> dict[str, Figures]:
    """All figures of each kind of proposals by its name, in percent.

    ``one2one`` (the paper's), ``any`` and ``average_recall`` hold ``<figure>`` and, with
    resamples, ``<figure>_low`` and ``_high``; ``one2one`` and ``any`` also ``per_image``.
    ``difference`` is one2one recall minus that of the first kind, with the interval of the
    difference on the same resamples. ``fixed_counts``, ``by_size``, ``by_relative_size``,
    ``by_class`` and ``curves`` are one2one. Undefined figures (no such object) are NaN.

    Raises:
        ValueError: two kinds of the same name.
    """
    names = [coverage.name for coverage in coverages]
    if len(set(names)) != len(names):
        raise ValueError(f"kinds of proposals need different names, got {names}")
    table = {one.name: _figures(one, truth, settings) for one in coverages}
    for coverage in coverages[1:]:
        first, own = table[names[0]]["one2one"], table[coverage.name]["one2one"]
        keys = [recall_key(iou) for iou in settings.ious]
        table[coverage.name]["difference"] = {key: own[key] - first[key] for key in keys}
    if settings.resamples:
        _add_intervals(table, coverages, truth, settings)
    return table


def _figures(coverage: Coverage, truth: Sequence[GroundTruth], settings: RecallSettings) -> Figures:
    figures: Figures = {"one2one": {}, "any": {}, "average_recall": {}}
    for (kind, name), values in _values(coverage, settings).items():
        figures[kind][name] = _percent(values)
    for match in ("one2one", "any"):
        figures[match]["per_image"] = coverage.mean_count()
    covered = coverage.covered["one2one"]
    figures["fixed_counts"] = {
        str(count): {
            **{recall_key(iou): _percent(covered[count] >= iou) for iou in settings.ious},
            "per_image": coverage.mean_count(count),
        }
        for count in settings.fixed_counts
    }
    figures["by_size"] = recall_groups(covered[ALL], truth, ious=settings.ious)
    figures["by_relative_size"] = recall_groups(
        covered[ALL], truth, ious=settings.ious, relative=True
    )
    groups = recall_groups(
        covered[ALL], truth, ious=settings.ious, class_names=settings.class_names
    )
    figures["by_class"] = {k: v for k, v in groups.items() if k not in figures["by_size"]}
    figures["curves"] = {
        "iou": recall_curve(covered[ALL]),
        "count": {recall_key(iou): _count_curve(coverage, settings, iou) for iou in settings.ious},
    }
    return figures


def _count_curve(
    coverage: Coverage, settings: RecallSettings, iou: float
) -> dict[str, list[float]]:
    """Recall against the mean count of boxes; a count that no image reaches is left out."""
    curve: dict[str, list[float]] = {"count": [], "recall": []}
    for limit in sorted(settings.curve_counts):
        mean = coverage.mean_count(limit)
        if not curve["count"] or mean > curve["count"][-1]:
            curve["count"].append(mean)
            curve["recall"].append(_percent(coverage.covered["one2one"][limit] >= iou))
    return curve


def _values(coverage: Coverage, settings: RecallSettings) -> dict[tuple[str, str], np.ndarray]:
    return object_values(coverage, ious=settings.ious, average_counts=settings.average_counts)


def _percent(values: np.ndarray) -> float:
    return 100 * float(values.mean()) if len(values) else float("nan")


def _add_intervals(
    table: dict[str, Figures],
    coverages: Sequence[Coverage],
    truth: Sequence[GroundTruth],
    settings: RecallSettings,
) -> None:
    columns: list[np.ndarray] = []
    places: list[tuple[str, str, str]] = []
    first = _values(coverages[0], settings)
    for coverage in coverages:
        values = _values(coverage, settings)
        for (kind, name), column in values.items():
            columns.append(column)
            places.append((coverage.name, kind, name))
            if coverage is not coverages[0] and kind == "one2one":
                columns.append(column - first[kind, name])
                places.append((coverage.name, "difference", name))
    sums = per_image_sums(truth, np.stack(columns, axis=1))
    objects = np.array([len(one.boxes) for one in truth], np.float64)

    def figures(counts: np.ndarray) -> np.ndarray:
        total = counts @ objects
        # A resample without any object has nothing to measure.
        return 100 * (counts @ sums) / total if total else np.full(len(places), np.nan)

    low, high = bootstrap_intervals(
        figures, len(truth), resamples=settings.resamples, seed=settings.seed
    )
    for place, (view, kind, name) in enumerate(places):
        table[view][kind][f"{name}_low"] = float(low[place])
        table[view][kind][f"{name}_high"] = float(high[place])


def table_rows(
    table: dict[str, Figures], settings: RecallSettings
) -> tuple[list[str], list[list[Any]]]:
    """Headers and rows of a printed comparison, one row for each kind, as the paper's Table 4.

    A figure with an interval is written "95.6 [94.8, 96.3]".
    """
    keys = [recall_key(iou) for iou in settings.ious]
    averages = [f"AR@{count}" for count in settings.average_counts]
    headers = ["proposals", "boxes", *keys, *(f"{key} any" for key in keys), *averages]
    rows = []
    for name, figures in table.items():
        cells = [_cell(figures["one2one"], key) for key in keys]
        cells += [f"{figures['any'][key]:.1f}" for key in keys]
        cells += [_cell(figures["average_recall"], key) for key in averages]
        rows.append([name, f"{figures['one2one']['per_image']:.1f}", *cells])
    return headers, rows


def _cell(figures: Figures, key: str) -> str:
    text = f"{figures[key]:.1f}"
    low, high = figures.get(f"{key}_low"), figures.get(f"{key}_high")
    return text if low is None else f"{text} [{low:.1f}, {high:.1f}]"
