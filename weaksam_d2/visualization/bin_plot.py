"""A histogram with the share of wrong entries in each of its bins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes

__all__ = ["ErrorBins"]

_MARKERS, _STYLES = "os^v", ("-", "--", ":", "-.")


@dataclass(frozen=True)
class ErrorBins:
    """Counts in equal bins of [0, 1] as bars (logarithmic), error rates as lines above them.

    ``rates``: name -> one rate in [0, 1] for each bin, NaN where it is empty; drawn in percent on
    an axis of its own.
    """

    counts: Sequence[int]
    x_label: str
    count_label: str
    rates: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def draw(self, axes: Axes) -> None:
        """Draw into matplotlib axes."""
        edges = np.linspace(0, 1, len(self.counts) + 1)
        centers = (edges[:-1] + edges[1:]) / 2
        axes.bar(centers, self.counts, width=0.9 / len(self.counts), color="0.8", zorder=1)
        if max(self.counts, default=0) > 0:
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.5)
        axes.set_xlim(0, 1)
        axes.set_xlabel(self.x_label)
        axes.set_ylabel(self.count_label)
        if not self.rates:
            return
        above = axes.twinx()
        for number, (name, rate) in enumerate(self.rates.items()):
            percent = 100 * np.asarray(rate, float)
            # The figure's legend is made of the lines of the main axes.
            for where, xs, ys in ((above, centers, percent), (axes, [], [])):
                where.plot(
                    xs,
                    ys,
                    label=name,
                    color=f"C{number}",
                    marker=_MARKERS[number % len(_MARKERS)],
                    linestyle=_STYLES[number % len(_STYLES)],  # equal lines stay visible
                    markerfacecolor="none" if number else f"C{number}",
                    markersize=4 + 2 * number,
                )
        above.set_ylim(-2, 102)
        above.set_ylabel("error rate (%)")
        above.grid(alpha=0.3)
