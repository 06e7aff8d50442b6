"""Several sources of label maps side by side, as text."""

from collections.abc import Mapping

from tabulate import tabulate

__all__ = ["label_table"]

_COLUMNS = {
    "mIoU": "mIoU",
    "precision": "precision",
    "recall": "recall",
    "image_precision": "image precision",
    "image_recall": "image recall",
    "ignored_ratio": "no label",
}


def label_table(summaries: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each source: means in percent, with their 95 % intervals where there are any.

    ``summaries`` are those of :meth:`LabelFigures.summary` by name.
    """
    rows = [
        [name, *(_cell(figures, column) for column in _COLUMNS)]
        for name, figures in summaries.items()
    ]
    headers = ["labels", *_COLUMNS.values()]
    align = ("left", *("right" for _ in _COLUMNS))
    return str(tabulate(rows, headers=headers, colalign=align, disable_numparse=True))


def _cell(figures: Mapping[str, float], name: str) -> str:
    value = figures[name]
    if value != value:
        return "–"
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{value:.2f}{interval}"
