"""Curves of finished or running trainings, from the ``metrics.json`` that each of them writes."""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from weaksam_d2.visualization import Lines, Series

__all__ = ["learning_curves", "read_curves"]

Curve = tuple[list[int], list[float]]


def read_curves(metrics: Path) -> dict[str, Curve]:
    """Iterations and values of every figure in a ``metrics.json``, one JSON object in a line.

    Where a resumed run wrote an iteration again, the later value counts. A last line that a kill
    cut off is left out.

    Raises:
        FileNotFoundError: there is no such file. ValueError: another line is no JSON object.
    """
    values: dict[str, dict[int, float]] = {}
    lines = metrics.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{metrics}, line {number}, is no JSON: {error}") from error
        for name, value in row.items():
            if name != "iteration" and isinstance(value, int | float):
                values.setdefault(name, {})[int(row["iteration"])] = float(value)
    return {
        name: (sorted(points), [points[iteration] for iteration in sorted(points)])
        for name, points in values.items()
    }


def learning_curves(runs: Mapping[str, Path], figures: Sequence[str]) -> list[Lines]:
    """One panel for each figure, with a line for each run.

    runs: name and ``metrics.json`` of each. A run without a figure has no line in its panel.

    Raises:
        ValueError: no run has the figure; names those that are most alike.
    """
    curves = {name: read_curves(path) for name, path in runs.items()}
    panels = []
    for figure in figures:
        found = {name: one[figure] for name, one in curves.items() if figure in one}
        if not found:
            known = sorted({key for one in curves.values() for key in one})
            near = difflib.get_close_matches(figure, known, n=5, cutoff=0.2) or known[:5]
            raise ValueError(f"no run has the figure {figure!r}; there are {', '.join(near)}, …")
        series = [Series(name, *curve) for name, curve in found.items()]
        panels.append(Lines(series, "iteration", figure, markers=_few(found)))
    return panels


def _few(curves: Mapping[str, Curve]) -> bool:
    """Whether points are so far apart that each deserves a mark."""
    return max(len(iterations) for iterations, _ in curves.values()) <= 30
