# Everything runs in .venv, which the first target makes. Needed: make, and python3 of version 3.11 or newer.
# uv is used where it is installed. ARGS goes to pytest: make test ARGS="-k tree".

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

# What an activated environment would say about where packages go.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

.PHONY: help setup demo test lint types bench docs clean

help:
	@echo "make setup   install everything into $(VENV)"
	@echo "make demo    run an instrumented app and show both copies of its trace"
	@echo "make test    run all tests"
	@echo "make lint    check style, format and types"
	@echo "make bench   measure what a span costs"
	@echo "make docs    regenerate the settings table and docs/dialects.md"
	@echo "make clean   remove environments, builds and caches"

setup: $(STAMP)
	@:

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; set PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $$($(PYTHON) --version) is too old, 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@if command -v uv >/dev/null; then \
	  set -x; uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --group dev -e '.[all]'; \
	else \
	  set -x; { $(PYTHON) -m venv $(VENV) || { echo "make: the venv module is missing (Debian: python3-venv)"; exit 1; }; } && \
	  $(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' && \
	  $(BIN)/python -m pip install --quiet --group dev -e '.[all]'; \
	fi
	@touch $(STAMP)

demo: setup
	@$(BIN)/otel-langfuse demo

test: setup
	$(BIN)/python -m pytest $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m bench

docs: setup
	$(BIN)/python tests/docs/regenerate.py

clean:
	rm -rf $(VENV) .venvs dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
