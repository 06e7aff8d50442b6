# The commands of this repository; `make help` lists them.
#
#   PYTHON=/path/to/python   use an environment of your own (it must have torch and detectron2)
#   VENV=DIR                 where our own environment lies (default .venv)

VENV ?= .venv
PY := $(if $(PYTHON),$(PYTHON),$(VENV)/bin/python)
export PY

# SAM's decoder allocates large temporaries: keeping them in the heap saves page faults. Threads that
# spin while they wait are slow on a busy machine. Both are read when Python starts; the tools set
# them for themselves by starting once more.
export OMP_WAIT_POLICY ?= PASSIVE
demo dino sepl s2c boxsam real segment bench: export MALLOC_MMAP_THRESHOLD_ ?= 8589934592
demo dino sepl s2c boxsam real segment bench: export MALLOC_TRIM_THRESHOLD_ ?= 17179869184

CLASSES := 'cat','cow','dog','horse','sheep'
VOC = (('animals_train','$(DATA)','animals_train',2012,($(CLASSES))),('animals_val','$(DATA)','animals_val',2012,($(CLASSES))))

.PHONY: help setup demo dino sepl s2c boxsam real segment test bench lint type style docs wheel clean

help: ## list the targets
	@grep -E '^[a-z0-9]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /\1\t/' | expand -t 10

setup: ## make the environment and fetch the SAM weights (once)
	@./scripts/setup_env.sh

demo: setup ## the whole pipeline on drawn scenes; no data needed
	$(PY) tools/run_pipeline.py --config-file configs/pipelines/scenes_demo.yaml --output output/demo

dino: setup ## the same with a DINO and query drop at its end, and its learning curves
	$(PY) tools/run_pipeline.py --config-file configs/pipelines/scenes_dino.yaml --output output/dino
	$(PY) tools/plot_curves.py --runs output/dino/retrain --output output/dino/curves.svg

sepl: setup ## from tags to a segmenter on drawn scenes: maps, SAM's masks, SEPL
	$(PY) tools/run_pipeline.py --config-file configs/pipelines/scenes_sepl.yaml --output output/sepl

s2c: setup ## the same with S2C, whose classifier learns from SAM's masks
	$(PY) tools/run_pipeline.py --config-file configs/pipelines/scenes_s2c.yaml --output output/s2c

boxsam: setup ## the same with BoxSAM on given boxes
	$(PY) tools/run_pipeline.py --config-file configs/pipelines/scenes_boxsam.yaml --output output/boxsam

real: setup ## the whole pipeline on photographs: DATA=<folder in VOC layout> [NUM_IMAGES=N]
	@test -n "$(DATA)" || { echo "make real: say DATA=<folder in VOC layout>, see INSTALL.md" >&2; exit 2; }
	@test -d "$(DATA)/JPEGImages" || { echo "make real: no folder $(DATA)/JPEGImages" >&2; exit 2; }
	$(PY) tools/run_pipeline.py --config-file configs/pipelines/voc_animals.yaml --output output/real \
	  $(if $(NUM_IMAGES),--num-images $(NUM_IMAGES)) DATASETS.VOC "$(VOC)"

segment: setup ## S2C, SEPL and BoxSAM on photographs: DATA=<folder in VOC layout>
	@test -d "$(DATA)/SegmentationClass" || { echo "make segment: say DATA=<folder in VOC layout>" >&2; exit 2; }
	for system in s2c boxsam; do $(PY) tools/run_pipeline.py \
	  --config-file configs/pipelines/voc_animals_$$system.yaml --output output/real_$$system \
	  DATASETS.VOC "$(VOC)" || exit 1; done

test: setup ## everything: lint, types, docs, wheel, tests
	@$(MAKE) --no-print-directory lint type docs wheel
	$(PY) -m pytest -q

bench: setup ## all benchmarks, written to docs/benchmarks.md [QUICK=1]
	$(PY) scripts/run_benchmarks.py $(if $(QUICK),--quick)

lint: ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

type: ## mypy, strict for artifacts and ops
	$(PY) -m mypy

style: ## sizes, docstrings and annotations, next to their limits
	@$(PY) scripts/style_report.py

docs: ## check links, keys, commands of the docs and write output/docs/*.html
	@$(PY) scripts/build_docs.py --output output/docs

wheel: ## build the wheel and use it from an empty folder
	@./scripts/wheel_smoke.sh

clean: ## remove caches and build folders; keeps .venv and output
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find weaksam_d2 projects tools scripts tests -name __pycache__ -prune -exec rm -rf {} +
