# Two commands: `make demo` and `make test`, either one first. Each makes .venv once and is quick afterwards.
# Nothing needs to be installed beforehand but Python 3.11 or newer. `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test evaluate bench-infer bench-latency bench-plan bench-receive check-outputs gate-table soak check format lint types floors migrations docs docs-fresh wheel peers setup clean distclean

VENV ?= .venv
BIN  := $(VENV)/bin

# The stamp's name changes with everything that decides what belongs in the environment.
RECIPE := pyproject.toml constraints.txt $(wildcard deploy/shims/*/pyproject.toml)
STAMP  := $(VENV)/.fits-$(shell cat $(RECIPE) | cksum | cut -d ' ' -f 1)

# FULL=1 runs everything; without it, what takes long stays out. JOBS: pytest processes (0: none). In the full run too
# they share out what is quick; the rest, which kills processes and watches clocks, then goes one by one (tests/sharing.py).
FULL ?=
JOBS ?= 2
PYTEST_ARGS ?=
CHOICE := $(if $(FULL),,-m "not slow and not acceptance")
SPREAD := $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS) --dist loadfile)

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

demo: $(STAMP)  ## a phantom patient through the whole node; exit 0 only if every check held
	@$(BIN)/npc-rtnode demo $(DEMO_ARGS)

test: $(STAMP) $(if $(FULL),peers)  ## the tests (FULL=1: slow, acceptance and real peers too); PYTEST_ARGS are passed on
	@$(BIN)/python -m pytest $(SPREAD) $(CHOICE) $(PYTEST_ARGS)

N    ?= 400
SEED ?= 0

evaluate: $(STAMP)  ## the shipped bundle on N=400 fresh external phantoms of SEED=0; ends with RESULT {json}
	@$(BIN)/python -m model.evaluate --count $(N) --seed $(SEED) $(EVALUATE_ARGS)

bench-infer: $(STAMP)  ## cost and parity of every way to run the network; ends with RESULT {json}
	@$(BIN)/python bench/infer.py $(BENCH_ARGS)

bench-plan: $(STAMP)  ## the planning model against a running node, on medians; ends with RESULT {json}
	@$(BIN)/python -m bench.plan $(PLAN_ARGS)

check-outputs: $(STAMP)  ## structure sets of 60 masks, read back by three readers; prints a table and a RESULT line
	@$(BIN)/python -m bench.outputs $(OUTPUTS_ARGS)

bench-receive: $(STAMP)  ## this node's receiver beside storescp, Orthanc and pynetdicom's; prints tables and a RESULT line
	@$(BIN)/python -m bench.receive $(RECEIVE_ARGS)

bench-latency: $(STAMP)  ## from the last C-STORE to TPS and PACS, stage by stage; one series, 50 queued, two worker hosts beside one; prints one RESULT line
	@$(BIN)/python -m bench.latency $(LATENCY_ARGS)

CLEAN   ?= 1000
WORKERS ?= 1

gate-table: $(STAMP)  ## planted faults and the gates that stop them, then CLEAN=1000 clean phantoms; prints one RESULT line
	@$(BIN)/python -m bench.gates --clean $(CLEAN) --workers $(WORKERS) $(GATE_ARGS)

CASES ?= 10000

soak: $(STAMP)  ## the receiver under CASES=10000 mutated PDUs and data sets of SEED=0; prints one RESULT line
	@$(BIN)/python -m tests.soak --cases $(CASES) --seed $(SEED) $(SOAK_ARGS)

check: lint types floors migrations docs-fresh  ## what "done" means: format, lint, types, floors, migrations, docs, tests
	@$(MAKE) --no-print-directory test

format: $(STAMP)  ## put the code into its one shape
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet .

lint: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .

types: $(STAMP)
	@$(BIN)/mypy

floors: $(STAMP)  ## who may import whom (.importlinter)
	@$(BIN)/lint-imports --no-logo

migrations: $(STAMP)  ## the tables and alembic/versions agree
	@$(BIN)/python -c "$$CHECK_MIGRATIONS"

docs: $(STAMP)  ## write docs/lifecycle.md, the tables in docs/errors.md and docs/gates.md, deploy/example.toml from the code
	@$(BIN)/python docs/generate.py

docs-fresh: $(STAMP)
	@$(BIN)/python docs/generate.py --check

wheel: $(STAMP)  ## dist/npc_rtnode-*.whl, with migrations, rules, templates and the default bundle
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist/*.whl

peers:  ## programs of other makers that the full tests talk to
	@bash deploy/peers.sh

setup: $(STAMP)  ## only the environment

$(STAMP): $(RECIPE)
	@bash deploy/setup.sh "$(VENV)"
	@rm -f $(VENV)/.fits-* && touch $@

clean:  ## remove what was built, keep the environment
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo-result
	@find . -path ./$(VENV) -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean  ## remove the environment too
	@rm -rf $(VENV)

define CHECK_MIGRATIONS
import sys
from npc_rtnode.adapters.database import engine, schema
memory = engine.open_engine("sqlite://")
schema.upgrade(memory)
found = schema.differences(memory)
sys.exit("\n".join(["the tables and alembic/versions differ:", *found]) if found else 0)
endef
export CHECK_MIGRATIONS
