# Two commands do everything on a fresh machine with Python >= 3.11:
#   make study [DATASET=fashion-mnist]    set up and run the main job; prints where the report lies
#   make test                             set up and run linters, types, import contracts and tests
PYTHON ?= python3
DATASET ?= digits
OUT ?= study-$(DATASET)
VENV := .venv
BIN := $(VENV)/bin
# More threads than cores cost ten times the time; every process sets what it needs on top of this.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help study test lint quick emulation stubs picture console-picture clean

help:
	@grep -E '^#   make' Makefile | sed 's/^#   //'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tierwise needs Python 3.11 or newer, but $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.study: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[study]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[study,dev,mlflow,otel,ray]'
	@touch $@ $(VENV)/.study

study: $(VENV)/.study
	$(BIN)/tierwise study run $(DATASET) --out $(OUT)

test: lint quick emulation

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests that measure time run alone, after the others.
quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not emulation"

emulation: $(VENV)/.dev
	$(BIN)/python -m pytest -m emulation

stubs: $(VENV)/.dev
	$(BIN)/python scripts/generate_stubs.py

# The README's picture, from the default study's report.
picture: $(VENV)/.dev
	$(BIN)/python scripts/screenshot.py $(OUT)/report.html docs/images/report.png

# The console's picture: nodes over emulated links with traffic, serving an artifact of the default study.
console-picture: $(VENV)/.dev
	$(BIN)/python scripts/console_demo.py $(OUT) --picture docs/images/console.png

clean:
	rm -rf $(VENV) .tierwise build dist
