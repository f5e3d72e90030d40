# Every target works on a fresh machine with Python 3.11 or later and git.
PYTHON ?= python3
BIN := .venv/bin
# On a machine without a GPU, TORCH names the CPU build; see "CPU or CUDA" in README.md.
TORCH ?= torch==2.13.0
RUNS ?= runs

.PHONY: install install-dev quickstart demo test test-slow lint docs reliability bench-peers clean \
	gpu gpu-test gpu-bench gpu-train

install: .venv/installed
install-dev: .venv/installed-dev

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q $(TORCH)
	$(BIN)/pip install -q -c constraints.txt -e '.[quickstart,export]'
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[quickstart,dev]'
	touch $@

quickstart: install
	$(BIN)/physgen quickstart --runs $(RUNS)

demo: install
	$(BIN)/physgen quickstart --full --runs $(RUNS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Two workers on two cores: threads of their own would only get in each other's way.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: install-dev .venv/headers
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow

# Of onnxruntime and a JSON library, for the C++ example, where apt has them; its test skips elsewhere.
.venv/headers: .venv/bin/python
	-examples/geant4/get-headers.sh $@

# What is promised under faults, and how often it held: docs/reliability.md.
reliability: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/reliability.py

# The site is written into build/site.
docs: install-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench-peers: install-dev
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py all --json benchmarks/results/latest.json

# On a machine with a CUDA device, which TORCH then names a build for (TORCH=torch). Each takes nine
# minutes at most and writes benchmarks/results/CARD.json; gpu-train goes on where it was stopped.
# Recipes that need a file or a run take it by SET='data.path=FILE' or SET='method.teacher=RUN'.
RECIPE ?= calo-flow
gpu: gpu-test gpu-bench gpu-train

gpu-test: install-dev
	timeout --signal=TERM 540 $(BIN)/pytest -m cuda

gpu-bench: install-dev
	timeout --signal=TERM 540 $(BIN)/python benchmarks/run.py device-speed --results

gpu-train: install-dev
	timeout --signal=TERM 540 $(BIN)/python benchmarks/run.py full-size --recipe $(RECIPE) --set $(SET) --results

clean:
	rm -rf .venv build dist
