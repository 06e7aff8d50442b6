"""How benchmarks of this folder compare ours with a reference formulation, and report it.

Each comparison first asserts that both give the same result, then times both in one run,
interleaved, so that a change of the machine's speed meets both; medians over the repeats.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Generic, TypeVar

__all__ = ["Comparison", "format_table", "make_parser", "measure", "report", "run"]

Result = TypeVar("Result")
Row = dict[str, Any]
COLUMNS = ("stage", "against", "work", "ours_s", "theirs_s", "ratio", "target", "met")


@dataclass(frozen=True)
class Comparison(Generic[Result]):
    """Ours against a reference formulation of the same result.

    ``check(ours, theirs)`` raises AssertionError if the results differ. ``target`` is the ratio
    theirs / ours that is asked for; ``work`` says in words what one run does.
    """

    stage: str
    against: str
    work: str
    target: float
    ours: Callable[[], Result]
    theirs: Callable[[], Result]
    check: Callable[[Result, Result], None]
    repeats: int = 5


def measure(comparison: Comparison[Any]) -> Row:
    """One row: the check, then the median seconds of both and their ratio theirs / ours.

    Raises:
        AssertionError: the results differ.
        ValueError: fewer than one repeat.
    """
    if comparison.repeats < 1:
        raise ValueError(f"repeats must be positive, got {comparison.repeats}")
    comparison.check(comparison.ours(), comparison.theirs())  # warms both up as well
    ours: list[float] = []
    theirs: list[float] = []
    for repeat in range(comparison.repeats):
        # Whoever goes first in a pair changes, so that neither always finds the caches warm.
        pair = [(comparison.ours, ours), (comparison.theirs, theirs)]
        for function, seconds in pair if repeat % 2 == 0 else reversed(pair):
            start = perf_counter()
            function()
            seconds.append(perf_counter() - start)
    ours_s, theirs_s = median(ours), median(theirs)
    ratio = theirs_s / ours_s
    return {
        "stage": comparison.stage,
        "against": comparison.against,
        "ratio": ratio,
        "target": comparison.target,
        "met": ratio >= comparison.target,
        "ours_s": ours_s,
        "theirs_s": theirs_s,
        "work": comparison.work,
    }


def format_table(rows: Iterable[Row], columns: Iterable[str] = COLUMNS) -> str:
    """The rows as text, columns aligned; numbers with three significant digits."""
    columns = list(columns)
    cells = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def report(rows: list[Row], json_file: Path | None) -> None:
    """Print the table, and write the rows to a file if one is given, whole or not at all."""
    print(format_table(rows))
    if json_file is None:
        return
    json_file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=json_file.parent, delete=False) as stream:
        json.dump(rows, stream, indent=1)
    os.replace(stream.name, json_file)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The flags that all benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="sampled work, a few minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return parser


def run(comparisons: Callable[[bool], Iterable[Comparison[Any]]], description: str | None) -> None:
    """A benchmark's whole main: ``comparisons(quick)`` are measured one by one and reported."""
    args = make_parser(description).parse_args()
    report([measure(comparison) for comparison in comparisons(args.quick)], args.json)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
