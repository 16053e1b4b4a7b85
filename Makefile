# The commands of this repository. `make` alone lists them.

VENV   := .venv
PYTHON := $(VENV)/bin/python
SEED   ?=
SEEDS  ?=
STORY  ?=
BENCH  ?=
COUNT  ?=
FUZZ   ?=
SECONDS ?=

.DEFAULT_GOAL := help
.PHONY: help setup up down status check quick test sim live isolation fuzz bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## The virtual environment and Debian's packages; nothing when they are there
	@tools/setup.sh

up: setup ## A cluster on this machine, data in .arktos/ (ARGS="--simulated-nodes 500")
	@$(VENV)/bin/arktos up --detach $(ARGS)

down: ## Stop it; its data stays
	@if [ -x $(VENV)/bin/arktos ]; then $(VENV)/bin/arktos down; else echo "Nothing is installed."; fi

status: ## What runs
	@$(VENV)/bin/arktos status

check: setup ## Format, lint, types, import contract: seconds
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

quick: check ## check, and the unit and property tests: under a minute
	$(PYTHON) -m pytest tests/unit -q

test: setup ## Everything: what CI runs
	@# The tests run even when a check fails: one run tells all there is to mend.
	@$(MAKE) --no-print-directory check; checked=$$?; \
	export PYTHONHASHSEED=0; \
	$(PYTHON) -m pytest tests/unit tests/sim -n 2 -q -ra --durations=5; tested=$$?; \
	$(PYTHON) -m pytest tests/live -ra --durations=15; lived=$$?; \
	[ $$checked = 0 ] || echo "make check failed: see above"; \
	[ $$tested = 0 ] || echo "unit or simulator tests failed: see above"; \
	exit $$((checked | tested | lived))

sim: setup ## Random stories in the simulator: SEEDS=1000 of them, or SEED=7 again (STORY=region)
	@$(PYTHON) tools/sim_runner.py $(if $(SEED),--seed $(SEED)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STORY),--story $(STORY))

live: setup ## What needs real Ray, real clients and real runtimes; says what it skipped, and why
	$(PYTHON) -m pytest tests/live -ra --durations=15

isolation: setup ## 100,000 hostile requests of one tenant at another (SEED=7; COUNT=500000)
	ARKTOS_ISOLATION=$(or $(COUNT),100000) ARKTOS_SEED=$(or $(SEED),1) \
	  $(PYTHON) -m pytest tests/live/test_isolation.py -q -s

fuzz: setup ## Look for inputs that break a parser: FUZZ="path body", SECONDS=60 for each
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check -e ".[fuzz]"
	$(PYTHON) tests/fuzz/run.py --seconds $(or $(SECONDS),60) $(FUZZ)

bench: setup ## Benchmarks, one question each; BENCH=placement runs one
	@for file in $(if $(BENCH),benchmarks/$(BENCH).py,$(wildcard benchmarks/[a-z]*.py)); do \
	  echo "== $$file"; $(PYTHON) $$file || exit 1; done

clean: down ## Remove the virtual environment and caches; data in .arktos/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
