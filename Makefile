# PIP_ARGS reaches pip: PIP_ARGS="--index-url …" for a mirror, or torch's CPU index where the pinned torch would be CUDA's.
PIP_ARGS ?=
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

.PHONY: demo test figures check

demo: .venv/.installed
	$(BIN)/python train.py -m experiment=quickstart
	$(BIN)/python evaluate.py data=digits

test: .venv/.dev
	$(BIN)/python -m pytest

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.installed
	$(BIN)/pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@
