# make demo   everything a fresh machine needs, then the main job on a synthetic data set
# make test   everything a fresh machine needs, then all tests
# make check  the fast gate: format, lint, types, layers, unit tests
# make docs   the documentation as a site, in site/, strictly: a broken link ends it
# make coverage all tests, with the lines and branches of the package that they run
# make mutants small faults in three modules, and which of them no test notices
# make faults  kill every stage at random instants, run two at once, fill the disk: the tables of docs/reliability.md
# make fuzz   every reader against INPUTS hostile files each; findings in fuzz-findings (FUZZ="--readers off,ply" for some)
# make fuzz-coverage  READER against files that Atheris makes by coverage, for SECONDS
# make attach-zoo  nine networks of others through all steps; writes docs/networks.md
# make gpu-test the tests that need a GPU, where there is one
# make lowest the quick tests with the lowest versions of dependencies that pyproject.toml allows

PYTHON ?= python3
INPUTS ?= 100000
READER ?= off
SECONDS ?= 600
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check --constraint
# A file of tests to a process, each of them on one thread; in the order of tests/conftest.py. Compiled code is kept, also where
# the environment says otherwise: every process would compile all tests anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install $(PIP_FLAGS) constraints.txt

.PHONY: demo test check docs coverage mutants faults fuzz fuzz-coverage attach-zoo gpu-test lowest format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/fer demo --run fer-demo --force

test: $(VENV)/.installed-dev
	$(PYTEST)

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q -m "not end_to_end"

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv-docs/.installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

coverage: $(VENV)/.installed-dev
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage json --quiet -o .coverage.json
	$(BIN)/python benchmarks/covered.py .coverage.json

# One thread, since mutmut forks; the tests' network is trained once, not for every mutant.
mutants: .venv-mutants/.installed
	rm -rf mutants
	mkdir -p mutants/run
	OMP_NUM_THREADS=1 FER_TINY_RUN=$(CURDIR)/mutants/run .venv-mutants/bin/mutmut run --max-children 1
	.venv-mutants/bin/python benchmarks/mutants.py

faults: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/faults.py

fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz.py --inputs $(INPUTS) --output fuzz-findings $(FUZZ)

fuzz-coverage: .venv-fuzz/.installed
	mkdir -p fuzz-findings/corpus-$(READER)
	.venv-fuzz/bin/python tests/atheris_fuzz.py $(READER) fuzz-findings/corpus-$(READER) -max_total_time=$(SECONDS) \
		-timeout=5 -rss_limit_mb=2048 -artifact_prefix=fuzz-findings/$(READER)-

attach-zoo: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/zoo.py --output docs/networks.md

gpu-test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m gpu tests/test_devices.py

lowest: .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest -q -m "not end_to_end and not browser" -W ignore::DeprecationWarning # old versions among new ones

clean:
	rm -rf $(VENV) .venv-docs .venv-fuzz .venv-lowest .venv-mutants mutants fuzz-findings fer-demo build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

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

.venv-mutants/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-mutants
	.venv-mutants/bin/python -m pip install $(PIP_FLAGS) constraints.txt --editable '.[test]' mutmut
	touch $@

.venv-fuzz/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip install $(PIP_FLAGS) constraints.txt --editable '.[test]' atheris
	touch $@

.venv-lowest/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install $(PIP_FLAGS) constraints-lowest.txt --editable '.[test]'
	touch $@
