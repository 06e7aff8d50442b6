"""The figures of each class side by side, as text."""

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

__all__ = ["class_table"]


def class_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each class, a column for each figure that has classes; the means come last.

    ``results`` are ``{task: {metric: value}}`` of one data set, where ``<metric>-<class>`` is a
    figure of a class. Detection tasks that give the same metric are told apart by their names. A
    class that could not be measured has "–". Returns "" if no figure has classes.
    """
    columns: dict[tuple[str, str], dict[str, float]] = {}
    for task, metrics in results.items():
        for name, value in metrics.items():
            metric, dash, cls = name.partition("-")
            if dash:
                columns.setdefault((task, metric), {})[cls] = float(value)
    if not columns:
        return ""
    metrics_seen = [metric for _, metric in columns]
    titles = [m if metrics_seen.count(m) == 1 else f"{t} {m}" for t, m in columns]
    classes = list(dict.fromkeys(cls for values in columns.values() for cls in values))
    rows = [
        [cls, *(_number(values.get(cls, float("nan"))) for values in columns.values())]
        for cls in classes
    ]
    means = [
        # The mean of a class's "IoU" is called "mIoU".
        results[task].get(metric, results[task].get(f"m{metric}", float("nan")))
        for task, metric in columns
    ]
    rows.append(["mean", *(_number(float(mean)) for mean in means)])
    align = ("left", *("right" for _ in titles))
    return str(tabulate(rows, headers=["class", *titles], colalign=align, disable_numparse=True))


def _number(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"
