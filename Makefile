# The README names `make demo` and `make test`; each sets up what it needs.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NAME ?= demo
# each test uses one thread; tests that judge what they measure run alone afterwards
ALONE = $(shell grep -rl --include='test_*.py' 'mark\.alone' tests)
PYTEST := $(BIN)/python -m pytest -q --durations=12 --durations-min=10
BESIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# what `make check` runs; tests/README.md says what each folder is for
FAST := $(addprefix tests/,unit contracts properties faults)
# compiled modules stay in .venv: without them, every start would compile torch, Ray and MLflow again
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check lowest audit format bench ui constraints clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

setup: $(READY) ## make .venv with the pinned versions

# Made again only when the requirements change. uv installs in seconds; pip is the fallback.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (python3-venv included)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned packages into $(VENV) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv 2>/dev/null || true
	@$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]' \
		|| $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## train, compress, measure on the built-in dataset: the first front
	@if [ -e runs/quickstart/sweep.json ]; then $(BIN)/paretune resume quickstart; \
		else $(BIN)/paretune sweep jobs/quickstart.yaml; fi

check: $(READY) ## format, lint, types, imports, fast tests
	@$(BIN)/ruff format --check -q . || { echo "run: make format" >&2; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/lint-imports --no-logo 2>/dev/null | tail -n +1
	@said=$$(mktemp); $(BIN)/mypy --config-file pyproject.toml >$$said 2>&1 & types=$$!; \
		$(PYTEST) $(BESIDE) $(FAST) -m "not slow and not full and not gpu and not alone"; tested=$$?; \
		wait $$types; typed=$$?; cat $$said; rm -f $$said; exit $$((tested + typed))

test: $(READY) ## the tests
	@$(PYTEST) $(BESIDE) -m "not full and not alone"; beside=$$?; \
		$(PYTEST) $(ALONE) -m "alone and not full"; exit $$((beside + $$?))

test-all: $(READY) ## the tests and the long ones
	@$(PYTEST) $(BESIDE) -m "not alone"; beside=$$?; $(PYTEST) $(ALONE) -m alone; exit $$((beside + $$?))

.PHONY: docs
docs: $(READY) ## write the tables in the Markdown files from the code
	@$(BIN)/python tests/tools/write_docs.py

.PHONY: messages
messages: $(READY) ## write the kept texts of messages, after one was reworded
	@$(BIN)/python tests/tools/write_messages.py

# another Python: make check PYTHON=python3.13 VENV=.venv-3.13
LOWEST := .venv-lowest
lowest: $(READY) ## the contract tests with the lowest versions that pyproject.toml allows
	@test -x $(LOWEST)/bin/python || $(BIN)/uv venv -q --python $(BIN)/python $(LOWEST)
	@$(BIN)/uv pip compile -q --resolution lowest-direct --no-header --no-annotate --extra dev pyproject.toml \
		-o $(LOWEST)/constraints.txt
	@$(BIN)/uv pip install -q --python $(LOWEST)/bin/python -r $(LOWEST)/constraints.txt
	@PATH="$$PWD/$(LOWEST)/bin:$$PATH" $(LOWEST)/bin/python -m pytest -q tests/contracts -m "not full and not gpu"

audit: $(READY) ## ask PyPI for known weaknesses of the pinned versions
	@$(BIN)/python tests/tools/audit.py

format: $(READY) ## format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix . || true

bench: $(READY) ## run one benchmark: make bench NAME=demo [ARGS=--json]
	@$(BIN)/python tests/benchmarks/$(NAME).py $(ARGS)

ui: $(READY) ## open the MLflow UI
	@$(BIN)/paretune ui

constraints: ## pin the newest versions that fit together
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	@$(BIN)/uv pip compile -q --upgrade --universal --no-header --no-annotate --python-version 3.11 \
		--extra dev pyproject.toml -o constraints.txt

clean: ## remove the environment and the caches, not the runs
	@rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
