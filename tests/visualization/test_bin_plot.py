"""A histogram with error rates: what matplotlib is told to draw."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from weaksam_d2.visualization import ErrorBins, write_plots


def test_counts_are_bars_and_rates_are_lines_in_percent() -> None:
    axes = Figure().add_subplot()
    rates = {"wrong": [0.0, float("nan"), 0.5, 1.0]}
    ErrorBins([10, 0, 2, 1], "loss", "regions", rates).draw(axes)
    assert [bar.get_height() for bar in axes.patches] == [10, 0, 2, 1]
    assert [bar.get_center()[0] for bar in axes.patches] == pytest.approx(
        [0.125, 0.375, 0.625, 0.875]
    )
    assert axes.get_yscale() == "log"
    (line,) = next(other for other in axes.figure.axes if other is not axes).lines
    np.testing.assert_array_equal(line.get_ydata(), [0, np.nan, 50, 100])
    assert axes.get_legend_handles_labels()[1] == ["wrong"]


def test_empty_bins_and_no_rates_are_drawn_too(tmp_path: Path) -> None:
    panels = [ErrorBins([0, 0], "loss", "regions"), ErrorBins([3, 1], "loss", "regions")]
    write_plots(tmp_path / "bins.png", panels, title="background")
    with Image.open(tmp_path / "bins.png") as picture:
        assert picture.width > 500
