"""Run every benchmark and write ``docs/benchmarks.md``.

Examples:
    python scripts/run_benchmarks.py --quick
    # One part anew; the other rows are those of the last run in --output
    python scripts/run_benchmarks.py --quick --only wsss
"""

import argparse
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
COLUMNS = ("stage", "work", "against", "ours (s)", "theirs (s)", "ratio", "target", "met")


def run(path: Path, output: Path, quick: bool) -> list[dict[str, Any]]:
    """The rows of one benchmark; a benchmark that fails ends the run."""
    result = output / f"{path.stem}.json"
    command = [sys.executable, str(path), "--json", str(result)] + ["--quick"] * quick
    print("+", " ".join([path.relative_to(REPO).as_posix(), *command[2:]]), flush=True)
    subprocess.run(command, cwd=REPO, check=True)
    rows: list[dict[str, Any]] = json.loads(result.read_text())
    return rows


def last_run(path: Path, output: Path, quick: bool) -> list[dict[str, Any]]:
    """The rows that a benchmark gave before."""
    result = output / f"{path.stem}.json"
    if not result.exists():
        raise SystemExit(f"{result} does not exist; run all benchmarks once, without --only")
    rows: list[dict[str, Any]] = json.loads(result.read_text())
    return rows


def number(value: Any) -> str:
    """Three significant digits; other values as they are."""
    return f"{value:.3g}" if isinstance(value, int | float) else str(value)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the rows."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for row in rows:
        cells = [row["stage"], row.get("work", ""), row["against"]]
        cells += [number(row[key]) for key in ("ours_s", "theirs_s", "ratio", "target")]
        lines.append(
            "| " + " | ".join([*map(str, cells), "yes" if row["met"] else "**no**"]) + " |"
        )
    return "\n".join(lines)


def main(args: argparse.Namespace) -> None:
    """Run all, then write the page in one go."""
    args.output.mkdir(parents=True, exist_ok=True)
    paths = sorted((REPO / "benchmarks").glob("[!_]*.py"))
    if not paths:
        raise SystemExit("no benchmark in benchmarks/")
    names = [path.stem for path in paths]
    if unknown := set(args.only) - set(names):
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    rows = []
    for path in paths:
        chosen = not args.only or path.stem in args.only
        take = run if chosen else last_run
        rows += take(path, args.output.resolve(), args.quick)
    page = (
        "# Benchmarks\n\n"
        "Written by `make bench`. Each row first asserts that ours and the other formulation give\n"
        "the same result, then times both in one run, interleaved, median of repeats. A ratio is\n"
        "theirs / ours: above 1 ours is faster.\n\n"
        f"Setting: {'quick' if args.quick else 'full'}, {platform.machine()}, "
        f"Python {platform.python_version()}.\n\n{table(rows)}\n"
    )
    (REPO / "docs" / "benchmarks.md").write_text(page, encoding="utf-8")
    print(table(rows))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="sampled work, a few minutes")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of benchmarks/")
    parser.add_argument("--output", type=Path, default=REPO / "output" / "bench")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
