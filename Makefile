# make demo   everything a fresh machine needs, then the main job on a synthetic data set
# make test   everything a fresh machine needs, then all tests
# make check  the fast gate: format, lint, types, layers, unit tests
# make docs   the documentation as a site, in site/, strictly: a broken link ends it
# make fuzz   every reader against INPUTS hostile files each; findings in fuzz-findings (FUZZ="--readers off,ply" for some)
# make fuzz-coverage  READER against files that Atheris makes by coverage, for SECONDS
# make lowest the quick tests with the lowest versions of dependencies that pyproject.toml allows

PYTHON ?= python3
INPUTS ?= 100000
READER ?= off
SECONDS ?= 600
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check --constraint
PIP := $(BIN)/python -m pip install $(PIP_FLAGS) constraints.txt

.PHONY: demo test check docs fuzz fuzz-coverage lowest format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/fer demo --run fer-demo --force

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m "not end_to_end"

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz.py --inputs $(INPUTS) --output fuzz-findings $(FUZZ)

fuzz-coverage: .venv-fuzz/.installed
	mkdir -p fuzz-findings/corpus-$(READER)
	.venv-fuzz/bin/python tests/atheris_fuzz.py $(READER) fuzz-findings/corpus-$(READER) -max_total_time=$(SECONDS) \
		-timeout=5 -rss_limit_mb=2048 -artifact_prefix=fuzz-findings/$(READER)-

lowest: .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest -q -m "not end_to_end and not browser" -W ignore::DeprecationWarning # old versions among new ones

clean:
	rm -rf $(VENV) .venv-docs .venv-fuzz .venv-lowest fuzz-findings fer-demo build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.installed $@

.venv-docs/.installed: constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install $(PIP_FLAGS) constraints.txt mkdocs mkdocs-material
	touch $@

.venv-fuzz/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip install $(PIP_FLAGS) constraints.txt --editable '.[test]' atheris
	touch $@

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install $(PIP_FLAGS) constraints-lowest.txt --editable '.[test]'
	touch $@
