"""The rules of the source tree that a machine can check: levels, sizes, side effects, paths."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "weaksam_d2"

LEVELS = (
    {"artifacts", "ops", "config", "model_zoo", "weights"},
    {"sam", "backbones", "data", "evaluation", "visualization"},
    {"cams", "prompts", "proposals", "wsod", "pseudo_gt", "retrain", "segmentation"},
    {"engine"},
    {"projects"},
)
LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# The engine's own folders, each of which may import those before it.
ENGINE = ("training", "stages", "analysis", "pipeline", "prediction")
LEVEL["add_weaksam_config"] = 2  # of the root: asking for it imports the stages
MAY_PRINT = {"engine"}  # the command lines and their progress; tools print too
# What the two lowest parts may import besides the standard library and themselves.
LIGHT = {
    "artifacts": {"numpy", "PIL"},
    "ops": {"numpy", "torch", "torchvision", "scipy", "pycocotools"},
}
TOP_LEVEL = {
    *("weaksam_d2", "projects", "configs", "tools", "tests", "setup.py", "pyproject.toml"),
    *("Makefile", "README.md", "INSTALL.md", "GETTING_STARTED.md", "MODEL_ZOO.md", "LICENSE"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", ".ci", ".gitignore", "docs"),
    *("benchmarks", "experiments", "requirements", "scripts"),
}
MAX_FILE, MAX_BODY, MAX_YAML = 400, 60, 25  # lines


def repository_files() -> list[Path]:
    """Files that are, or would be, committed."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPO, check=True, capture_output=True, text=True).stdout
    return [
        path
        for path in sorted({REPO / name for name in names.split("\0") if name})
        if path.is_file()
    ]


MODULES = sorted(PACKAGE.rglob("*.py")) + sorted((REPO / "projects").rglob("*.py"))
SOURCES = sorted(path for path in repository_files() if path.suffix == ".py")
YAMLS = sorted((REPO / "configs").rglob("*.yaml")) + sorted((REPO / "projects").rglob("*.yaml"))


def identify(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def module_name(path: Path) -> tuple[str, ...]:
    """projects/DINO/dino/config.py is the module weaksam_d2.projects.dino.config."""
    parts = path.relative_to(REPO).with_suffix("").parts
    return ("weaksam_d2", "projects", *parts[2:]) if parts[0] == "projects" else parts


def imported_names(source: str, module: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Every dotted name that a module imports, relative imports resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module[: len(module) - node.level] if node.level else ()
            target = tuple(node.module.split(".")) if node.module else ()
            yield from ((*base, *target, alias.name) for alias in node.names)


def part_of(name: tuple[str, ...]) -> str:
    """``wsod``, ``projects.dino``, or nothing for a module that is not ours (or the root)."""
    if name[0] != "weaksam_d2" or len(name) < 2 or name[1] == "__init__":
        return ""
    inner = name[1] == "projects" and len(name) > 2 and name[2] != "__init__"
    return ".".join(name[1:3]) if inner else name[1]


def level_violations(source: str, module: tuple[str, ...]) -> set[str]:
    """Imports that go up, sideways or to what only other distributions may own."""
    own, bad = part_of(module), set()
    for name in imported_names(source, module):
        part = part_of(name)
        ours = name[0] == "weaksam_d2" and part.partition(".")[0] in LEVEL
        if ours and part != own and LEVEL[part.partition(".")[0]] >= LEVEL[own.partition(".")[0]]:
            bad.add(".".join(name))
        if name[0] in ("tools", "projects", "pkg_resources"):
            bad.add(".".join(name))
        if name[:2] in (("detectron2", "model_zoo"), ("detectron2", "_C")):
            bad.add(".".join(name))
    return bad


def test_the_checks_see_the_source() -> None:
    assert len(MODULES) >= 50
    assert {part_of(module_name(path)) for path in MODULES} >= LEVELS[0] | LEVELS[1]
    assert len(SOURCES) > len(MODULES)
    assert len(YAMLS) >= 5


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("weaksam_d2.wsod.a", "from weaksam_d2.proposals import x", "weaksam_d2.proposals.x"),
        ("weaksam_d2.wsod.a", "from ..engine import trainer", "weaksam_d2.engine.trainer"),
        ("weaksam_d2.wsod.a", "from weaksam_d2 import engine", "weaksam_d2.engine"),
        ("weaksam_d2.artifacts.a", "import weaksam_d2.ops.boxes", "weaksam_d2.ops.boxes"),
        (
            "weaksam_d2.projects.a.b",
            "from weaksam_d2.projects.c import d",
            "weaksam_d2.projects.c.d",
        ),
        ("weaksam_d2.engine.a", "from weaksam_d2.projects import x", "weaksam_d2.projects.x"),
        ("weaksam_d2.engine.a", "import tools.train_net", "tools.train_net"),
        (
            "weaksam_d2.wsod.a",
            "def f():\n    from detectron2 import model_zoo",
            "detectron2.model_zoo",
        ),
        ("weaksam_d2.wsod.a", "from ..ops import mil\nfrom .b import c\nimport torch", ""),
        ("weaksam_d2.engine.a", "from weaksam_d2 import add_weaksam_config", ""),
        (
            "weaksam_d2.data.a",
            "from weaksam_d2 import add_weaksam_config",
            "weaksam_d2.add_weaksam_config",
        ),
        ("weaksam_d2.projects.a.b", "from weaksam_d2.engine import x\nfrom .c import d", ""),
    ],
)
def test_the_level_check_can_fail(module: str, source: str, bad: str) -> None:
    assert level_violations(source, tuple(module.split("."))) == ({bad} if bad else set())


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_go_down(path: Path) -> None:
    module = module_name(path)
    if module == ("weaksam_d2", "__init__"):
        pytest.skip("the root resolves names of all levels on first use")
    assert part_of(module).partition(".")[0] in LEVEL, f"{identify(path)} belongs to no level"
    bad = level_violations(path.read_text(encoding="utf-8"), module)
    assert not bad, f"{identify(path)} must not import {sorted(bad)}"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.parent.parent == PACKAGE / "engine"], ids=identify
)
def test_the_folders_of_the_engine_import_in_one_direction(path: Path) -> None:
    own = ENGINE.index(path.parent.name)
    names = imported_names(path.read_text(encoding="utf-8"), module_name(path))
    inside = {name[2] for name in names if name[:2] == ("weaksam_d2", "engine") and len(name) > 2}
    assert not inside & set(ENGINE[own + 1 :])


@pytest.mark.parametrize(
    "path", [p for p in MODULES if part_of(module_name(p)) in LIGHT], ids=identify
)
def test_the_lowest_parts_import_little(path: Path) -> None:
    module = module_name(path)
    own = part_of(module)
    foreign = {
        name[0] if name[0] != "weaksam_d2" else ".".join(name[:2])
        for name in imported_names(path.read_text(encoding="utf-8"), module)
    }
    foreign -= {*sys.stdlib_module_names, *LIGHT[own], f"weaksam_d2.{own}"}
    assert not foreign, f"{identify(path)} must not import {sorted(foreign)}"


@pytest.mark.parametrize("path", SOURCES, ids=identify)
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = len(text.splitlines())
    assert lines <= MAX_FILE, f"{identify(path)} has {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            size = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert size <= MAX_BODY, f"{identify(path)}: {node.name} has {size} lines"


@pytest.mark.parametrize("path", YAMLS, ids=identify)
def test_configs_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_YAML


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_modules_print_nothing_and_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{identify(path)} has no docstring"
    text = path.read_text(encoding="utf-8")
    may_print = part_of(module_name(path)) in MAY_PRINT or "__main__" in text
    assert may_print or not any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for node in ast.walk(tree)
    ), f"{identify(path)} calls print; use logging"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name == "__init__.py" and p.stat().st_size], ids=identify
)
def test_packages_list_their_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "__all__"
    ]
    assert len(listed) == 1, f"{identify(path)} needs one literal __all__"
    assert len(set(listed[0])) == len(listed[0])


def test_no_file_names_a_machine_or_a_person() -> None:
    # Put together here, so that this file is clean itself.
    paths = [f"/{folder}/" for folder in ("work", "root", "home", "Users", "mnt")]
    paths.append("/tmp/" + "bash")
    pattern = re.compile("|".join(rf"(?<![\w.:/-]){re.escape(path)}" for path in paths))
    checked, found = 0, []
    for path in repository_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        checked += 1
        found += [f"{identify(path)}: {match.group()}" for match in pattern.finditer(text)]
    assert checked >= 100
    assert not found, found


def test_the_top_level_holds_only_what_belongs_there() -> None:
    extra = {path.relative_to(REPO).parts[0] for path in repository_files()} - TOP_LEVEL
    assert not extra, f"unexpected at the top level: {sorted(extra)}"


def test_ignore_patterns_are_anchored_to_the_top() -> None:
    folders = [
        line
        for line in (REPO / ".gitignore").read_text(encoding="utf-8").splitlines()
        if line.endswith("/") and not line.startswith("/")
    ]
    assert folders == ["__pycache__/"]
