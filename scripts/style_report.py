"""Print sizes, docstrings and annotations of the source next to their limits.

Example:
    python scripts/style_report.py
"""

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FOLDERS = ("weaksam_d2", "projects", "tools", "scripts", "benchmarks")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Limit:
    """What is measured, the number to aim at and the number that a test enforces."""

    title: str
    aim: int
    hard: int


FILES = Limit("file, lines", 200, 400)
FUNCTIONS = Limit("function body, lines", 30, 60)
CLASSES = Limit("class, lines", 150, 400)
TOOLS = Limit("tool, lines", 150, 400)
YAMLS = Limit("YAML, lines", 25, 25)


def body_lines(node: Function) -> int:
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def definitions(tree: ast.Module) -> Iterator[Function | ast.ClassDef]:
    """Every function and class of a module, nested ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node


def is_annotated(node: Function) -> bool:
    """Do all arguments (but ``self`` and ``cls``) and the result have a type?"""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    if arguments and arguments[0].arg in ("self", "cls"):
        arguments = arguments[1:]
    arguments += [extra for extra in (node.args.vararg, node.args.kwarg) if extra is not None]
    return node.returns is not None and all(argument.annotation for argument in arguments)


def print_sizes(limit: Limit, sizes: dict[str, int]) -> None:
    """One line with median, 95th percentile and maximum, and the names over the aim."""
    if not sizes:
        return
    values = sorted(sizes.values())
    p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
    over = sorted((name for name, size in sizes.items() if size > limit.aim), key=sizes.__getitem__)
    print(
        f"{limit.title:22} n {len(values):4}  median {statistics.median(values):5.0f}  p95 {p95:4}"
        f"  max {values[-1]:4}  aim {limit.aim}  hard {limit.hard}  over the aim {len(over)}"
    )
    for name in reversed(over[-5:]):
        print(
            f"    {sizes[name]:4}  {name}{'  OVER THE LIMIT' if sizes[name] > limit.hard else ''}"
        )


def print_share(title: str, marks: dict[str, bool], floor: int) -> None:
    """One line with the share of true marks, and the first names without."""
    share = 100 * sum(marks.values()) / max(1, len(marks))
    print(f"{title:22} {share:5.1f} % of {len(marks)}  limit {floor} %")
    for name in [name for name, mark in marks.items() if not mark][:5]:
        print(f"    missing  {name}")


def main() -> None:
    """Read every source file and print the report."""
    sizes: dict[Limit, dict[str, int]] = {
        limit: {} for limit in (FILES, TOOLS, CLASSES, FUNCTIONS, YAMLS)
    }
    docstrings: dict[str, bool] = {}
    annotations: dict[str, bool] = {}
    for path in (path for folder in FOLDERS for path in sorted((REPO / folder).rglob("*.py"))):
        name, text = path.relative_to(REPO).as_posix(), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        sizes[TOOLS if name.startswith("tools/") else FILES][name] = len(text.splitlines())
        docstrings[name] = ast.get_docstring(tree) is not None
        for node in definitions(tree):
            place = f"{name}:{node.lineno} {node.name}"
            if not node.name.startswith("_"):
                docstrings[place] = ast.get_docstring(node) is not None
            if isinstance(node, ast.ClassDef):
                sizes[CLASSES][place] = (node.end_lineno or 0) - node.lineno + 1
            else:
                sizes[FUNCTIONS][place] = body_lines(node)
                annotations[place] = is_annotated(node)
    for path in sorted((REPO / "configs").rglob("*.yaml")):
        sizes[YAMLS][path.relative_to(REPO).as_posix()] = len(path.read_text().splitlines())
    for limit, values in sizes.items():
        print_sizes(limit, values)
    print_share("docstrings, public", docstrings, 100)
    print_share("annotated functions", annotations, 100)


if __name__ == "__main__":
    main()
