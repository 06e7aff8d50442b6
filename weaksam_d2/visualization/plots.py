"""Charts as files of their own (PNG, SVG or PDF), drawn by matplotlib, without a display.

The charts of the report are SVG that takes its colors from the page (see ``charts``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from weaksam_d2.artifacts import atomic_write
from weaksam_d2.visualization.bin_plot import ErrorBins
from weaksam_d2.visualization.charts import Series

__all__ = ["PLOT_FORMATS", "Bars", "Lines", "write_plots"]

PLOT_FORMATS = (".pdf", ".png", ".svg")
_STYLES = ("-", "--", ":", "-.")
_COLORS = 10  # of matplotlib's default cycle
_NAME_WIDTH = 16  # letters of a line below a bar
_MANY_NAMES = 8  # more names below an axis are written upright


@dataclass(frozen=True)
class Lines:
    """Lines over common axes.

    ``x_names`` puts names at x = 0, 1, … and draws dots there instead of lines; ``log_x`` needs
    positive x; ``y_range`` fixes the vertical axis.
    """

    series: Sequence[Series]
    x_label: str
    y_label: str
    y_range: tuple[float, float] | None = None
    log_x: bool = False
    markers: bool = False
    x_names: Sequence[str] = ()

    def draw(self, axes: Axes) -> None:
        """Draw into matplotlib axes."""
        for number, one in enumerate(self.series):
            points = one.points()
            # Beside each other above a name; equal lines stay visible by their dashes.
            shift = 0.6 * (number + 0.5) / len(self.series) - 0.3 if self.x_names else 0.0
            style = "none" if self.x_names else _STYLES[number % len(_STYLES)]
            axes.plot(
                [x + shift for x, _ in points],
                [y for _, y in points],
                linestyle=style,
                marker="o" if self.markers or self.x_names or len(points) == 1 else None,
                markersize=3.5,
                label=one.name,
            )
        if self.log_x:
            axes.set_xscale("log")
        if self.y_range is not None:
            low, high = self.y_range
            margin = 0.02 * (high - low)
            axes.set_ylim(low - margin, high + margin)
        if self.x_names:
            upright = 90 if len(self.x_names) > _MANY_NAMES else 0
            axes.set_xticks(range(len(self.x_names)), self.x_names, rotation=upright)
            axes.set_xlim(-0.5, len(self.x_names) - 0.5)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.y_label)
        axes.grid(alpha=0.3)


@dataclass(frozen=True)
class Bars:
    """One bar for each name, with its interval if there is one (NaN: none)."""

    names: Sequence[str]
    values: Sequence[float]
    y_label: str
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def draw(self, axes: Axes) -> None:
        """Draw into matplotlib axes."""
        places = range(len(self.names))
        errors = None
        if len(self.low):
            below = np.subtract(self.values, self.low)
            errors = np.stack([below, np.subtract(self.high, self.values)])
        colors = [f"C{place % _COLORS}" for place in places]
        axes.bar(places, self.values, yerr=errors, capsize=4, color=colors)
        names = [fill(name, _NAME_WIDTH) for name in self.names]
        axes.set_xticks(places, names, rotation=90 if len(places) > _MANY_NAMES else 0)
        axes.set_ylabel(self.y_label)
        axes.grid(alpha=0.3, axis="y")


def write_plots(path: Path, panels: Sequence[Lines | Bars | ErrorBins], *, title: str = "") -> None:
    """Write panels beside each other, two in a row, with one legend for all their lines.

    Equal panels give equal bytes.

    Raises:
        ValueError: no panel, or a name that does not end in .pdf, .png or .svg.
    """
    path = Path(path)
    if path.suffix not in PLOT_FORMATS:
        raise ValueError(f"a plot is a file of {PLOT_FORMATS}, got {path}")
    if not panels:
        raise ValueError(f"nothing to draw for {path}")
    with rc_context({"svg.hashsalt": "weaksam_d2", "font.size": 9}):
        figure = _drawn(panels, title)
        # Neither the date nor a library's version goes into the file.
        stamps: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with atomic_write(path) as temporary:
            figure.savefig(
                temporary,
                format=path.suffix[1:],
                dpi=150,
                metadata=stamps.get(path.suffix, {"Software": None}),
                bbox_inches="tight",
            )


def _drawn(panels: Sequence[Lines | Bars | ErrorBins], title: str) -> Figure:
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    handles: dict[str, Any] = {}
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        panel.draw(axes)
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, line)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3)
    if title:
        figure.suptitle(title)
    return figure
