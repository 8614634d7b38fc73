# PIP_ARGS reaches pip, such as an extra index with the CPU build of the pinned torch (see the README).
# ROOT is a folder with location30, ag_news and sst2 for `make figures`; without it the data are downloaded.
PIP_ARGS ?=
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1
# Bytecode of tests and of packages (which pip leaves out here) is written once, not made anew in every process.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all figures docs forget check types

demo: .venv/.installed
	$(BIN)/python train.py -m experiment=quickstart
	$(BIN)/python evaluate.py data=digits attack=quick

test: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=20

test-all: .venv/.dev
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=20 -m 'not gpu'

figures: .venv/.dev
	$(BIN)/python docs/figures.py $(ROOT)
	$(BIN)/python docs/screenshots.py

docs: .venv/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

forget: .venv/.installed
	$(BIN)/python -m palisade.targets.forget $(foreach name,run root reports released,$(if $($(name)),"$(name)=$($(name))"))

check: .venv/.dev types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: .venv/.dev
	mkdir -p .typing && ln -sfn .. .typing/palisade
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q --no-compile $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/pip install -q --no-compile $(PIP_ARGS) -c constraints.txt -e '.[dev,docs,lm,onnx,ray,serve,skops,sweep,track]'
	# Wheels of torchvision for CUDA cannot be imported beside a CPU build of torch, nor could torchmetrics be then: tests
	# take its networks, which are Python alone, from a folder of their own.
	$(BIN)/pip install -q --no-compile --no-deps --upgrade $(PIP_ARGS) -c constraints.txt --target .venv/vision torchvision
	touch $@
