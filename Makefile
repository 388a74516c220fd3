# Two commands, each enough by itself on a fresh machine with Python >= 3.10 and make:
#   make demo   two simulated subjects from raw BIDS to group tables, into ./demo-output
#   make test   lint, types, import layers, tests
# Further:
#   make test-slow        the tests that take minutes
#   make test-container   the image, the Singularity definition and the SLURM example, for real (as root on Debian)
#   make test-browser     the pages in headless Chromium (installed as root on Debian, else skipped where it is missing)
#   make test-consumers   other people's tools on what AtlasGS writes, in an environment of 1 GB
#   make boutiques        boutiques.json anew from the options of the command

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow test-container test-browser test-consumers boutiques lint clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/python demo/run.py

# A process for each processor, one thread each; a file's tests share their fixtures and stay together.
test: lint
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

test-container: $(INSTALLED)
	tests/container/install.sh
	$(BIN)/pytest -m container tests/container

test-browser: $(INSTALLED)
	tests/browser/install.sh
	$(BIN)/pytest -m browser tests/browser

test-consumers: $(INSTALLED)
	$(BIN)/pytest -m consumers

boutiques: $(INSTALLED)
	$(BIN)/python container/describe.py

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
