# Two commands, each enough by itself on a fresh machine with Python >= 3.10 and make:
#   make demo   two simulated subjects from raw BIDS to group tables, into ./demo-output
#   make test   lint, types, import layers, tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/python demo/run.py

test: lint
	$(BIN)/pytest

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo-output benchmark-output
