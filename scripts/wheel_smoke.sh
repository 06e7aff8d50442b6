#!/usr/bin/env bash
# Build the wheel, install it into an empty folder and use it from there. PY: the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
REPO=$PWD
PY=${PY:-.venv/bin/python}
case $PY in */*) PY=$(cd "$(dirname "$PY")" && pwd)/$(basename "$PY") ;; esac
TEMP=$(mktemp -d)
trap 'rm -rf "$TEMP"' EXIT

# A copy: setuptools leaves its build folder in the tree, and stale files of it enter a later wheel.
mkdir "$TEMP/source"
cp -r setup.py pyproject.toml README.md LICENSE weaksam_d2 configs projects "$TEMP/source/"
find "$TEMP/source" -name __pycache__ -prune -exec rm -rf {} +
export PIP_DISABLE_PIP_VERSION_CHECK=1
"$PY" -m pip wheel -q --no-index --no-deps --no-build-isolation -w "$TEMP" "$TEMP/source"
"$PY" -m pip install -q --no-index --no-deps --target "$TEMP/site" "$TEMP"/weaksam_d2-*.whl

cd "$TEMP"
PYTHONPATH=$TEMP/site "$PY" -W ignore - "$REPO" <<'PYTHON'
import sys
from pathlib import Path

import weaksam_d2

heavy = {"torch", "detectron2", "numpy"} & set(sys.modules)
assert not heavy, f"importing weaksam_d2 also imported {sorted(heavy)}"
site, repo = Path(weaksam_d2.__file__).parents[1], Path(sys.argv[1])
assert site == Path.cwd() / "site", f"weaksam_d2 comes from {site}, not from the wheel"

def relative(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.py")}

missing = relative(repo / "weaksam_d2") - relative(site / "weaksam_d2")
for package in (init.parent for init in (repo / "projects").glob("*/*/__init__.py")):
    missing |= relative(package) - relative(site / "weaksam_d2" / "projects" / package.name)
assert not missing, f"the wheel lacks {sorted(missing)}"

from weaksam_d2 import model_zoo  # noqa: E402

names = model_zoo.list_config_files()
expected = {path.relative_to(repo / "configs").as_posix() for path in (repo / "configs").rglob("*.yaml")}
expected |= {path.relative_to(repo).as_posix() for path in (repo / "projects").glob("*/configs/**/*.yaml")}
assert names and set(names) == expected, f"configs differ: {sorted(set(names) ^ expected)}"

from detectron2.config import get_cfg  # noqa: E402

from weaksam_d2 import add_weaksam_config  # noqa: E402
from weaksam_d2.projects import add_all_configs  # noqa: E402

for name in names:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    add_all_configs(cfg)
    cfg.merge_from_file(model_zoo.get_config_file(name))
print(f"wheel: ok, {len(names)} configs open from it")
PYTHON
