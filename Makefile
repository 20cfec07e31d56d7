# Everything a newcomer or CI runs. `make` alone lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test check tools soak bench bench-goodput bench-load fuzz proto lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 22

$(READY): pyproject.toml .ci/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Headgate needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 64; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint .ci/lock.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## 20 seconds: a predictor, the gate in front, and a load that rises past capacity
	$(BIN)/headgate demo

test: check ## everything: lint, types, layers, unit, socket, fault and contract tests

check: $(READY) tools ## the same by its usual name
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests.contract.install
	$(BIN)/pytest -q -n 2 --dist loadfile

tools: ## install the programs that tests and benchmarks drive (Debian; needs root)
	@bash .ci/tools test

soak: $(READY) ## ten minutes and a million requests with a predictor that is killed all the time, and a ledger of each
	$(BIN)/python -m tests.soak

bench: $(READY) ## CPU per request, latency and memory beside HAProxy and Envoy: JSON and a table
	@bash .ci/tools bench
	$(BIN)/python -m tests.bench

bench-goodput: $(READY) ## goodput at 0.8 to 4 times capacity beside HAProxy and Envoy, 40 minutes: JSON, a table, a chart
	@bash .ci/tools bench
	$(BIN)/python -m tests.bench.goodput

bench-load: $(READY) ## CPU per request of the load generator beside wrk, h2load, aiohttp, grpc.aio and tritonclient
	@bash .ci/tools bench
	$(BIN)/python -m tests.bench.generators

fuzz: $(READY) ## coverage-guided fuzzing of all that reads bytes from a peer, 10 minutes (SECONDS=, TARGETS=)
	$(BIN)/python -m tests.fuzz $(TARGETS) --seconds $(or $(SECONDS),600)

proto: $(READY) ## generate the code in protos/ from its .proto files
	$(BIN)/python -m protos.generate

lock: ## resolve the newest allowed versions into .ci/lock.txt
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check '.[dev]'
	build/lock/bin/pip freeze --exclude headgate > .ci/lock.txt

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
