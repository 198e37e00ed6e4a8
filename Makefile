# Everything happens in an environment of its own; `make PYTHON=python3.13 VENV=.venv-313 test` for another Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types tests bench bench-memory bench-networks bench-scales bench-batch bench-decoding bench-export bench-merge bench-workers bench-start bench-peers gallery fuzz clean

demo: $(VENV)/.run
	$(BIN)/nucleiflow demo demo

test: lint types tests

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

tests: $(VENV)/.test
	$(BIN)/python -m pytest

bench: $(VENV)/.test
	$(BIN)/python tests/benchmarks/bench.py runs/bench

bench-memory: $(VENV)/.test
	$(BIN)/python tests/benchmarks/memory.py runs/memory

bench-networks: $(VENV)/.test
	$(BIN)/python tests/benchmarks/networks.py

bench-scales: $(VENV)/.test
	$(BIN)/python tests/benchmarks/scales.py runs/scales

bench-batch: $(VENV)/.test
	$(BIN)/python tests/benchmarks/batch.py

bench-decoding: $(VENV)/.test
	$(BIN)/python tests/benchmarks/decoding.py runs/decoding

bench-export: $(VENV)/.test
	$(BIN)/python tests/benchmarks/export.py runs/export

bench-merge: $(VENV)/.test
	$(BIN)/python tests/benchmarks/merge.py runs/merge

bench-workers: $(VENV)/.test
	$(BIN)/python tests/benchmarks/workers.py runs/workers

bench-start: $(VENV)/.test
	$(BIN)/python tests/benchmarks/start.py runs/start

bench-peers: $(VENV)/.test
	$(BIN)/python tests/benchmarks/peers.py runs/peers --picture .github/peers.svg

# runs for each target; `make fuzz RUNS=20000`. Without atheris: $(BIN)/python tests/fuzz/fuzz.py runs/fuzz --blind
RUNS ?= 2000
fuzz: $(VENV)/.fuzz
	$(BIN)/python tests/fuzz/fuzz.py runs/fuzz --runs $(RUNS)

gallery: $(VENV)/.test
	$(BIN)/python tests/benchmarks/gallery.py runs/gallery

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.fuzz: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
