# The whole set-up: `make quickstart` and `make test` work in a fresh clone, with nothing typed before them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
TESTS ?= tests
RUN_DIR := runs/movie-reviews-quickstart

.PHONY: help quickstart install install-dev test test-all lint fast-test bench-peer clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

quickstart: install  ## real checkpoint, real data: one epoch, test score, a prediction
	$(BIN)/python experiments/classification.py movie-reviews --name movie-reviews-quickstart --train.epochs 1
	$(BIN)/jaxtune predict $(RUN_DIR) --text "A warm, funny film that earns every one of its tears."
	$(BIN)/jaxtune predict $(RUN_DIR) --text "Two hours of my life that I will never get back."

install: $(VENV)/installed  ## .venv with jaxtune

install-dev: $(VENV)/installed-dev  ## .venv with jaxtune and what its tests need

test: install-dev lint fast-test  ## ruff, types, and all tests but the slow ones

lint: install-dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast-test: install-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" $(TESTS)

test-all: install-dev lint  ## with the slow ones: faults, long end-to-end runs
	$(BIN)/python -m pytest -n 2 --dist worksteal

$(VENV)/bin/python:
ifdef UV
	$(UV) venv --quiet --seed --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif
	@$(BIN)/python -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"jaxtune needs Python 3.11 or newer, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")' || (rm -rf $(VENV); exit 1)

# One marker file per extra: an edit of pyproject.toml installs again, nothing else does.
$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python -e .
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
endif
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
ifdef UV
	$(UV) pip install --quiet --python $(BIN)/python -e ".[dev]"
else
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
endif
	@touch $@ $(VENV)/installed

clean:  ## remove .venv and caches, never runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
