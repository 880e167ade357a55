# ebbtide's everyday commands. All of them work in .venv, made and filled on first use.

PYTHON ?= python3
VENV ?= .venv
FILES ?=
SEED ?= 1
MINUTES ?= 5
DATABASE ?= both
REPORT ?= build/chaos.json

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint constraints.txt

.PHONY: help demo test lint format chaos bench lock clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Summarise real articles from zero instances and back to zero (FILES="a.txt b.txt" for your own)
	@$(BIN)/ebbtide demo $(FILES)

test: $(VENV)/.develop ## Run all tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.develop ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.develop ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

chaos: $(VENV)/.develop ## Break everything at random and account for every request (SEED=1 MINUTES=5 DATABASE=both REPORT=build/chaos.json)
	$(BIN)/python -m bench.chaos --seed $(SEED) --minutes $(MINUTES) --database $(DATABASE) --report $(REPORT)

bench: $(VENV)/.demo ## Measure what docs/architecture.md promises
	$(BIN)/python -m bench

lock: ## Write the newest versions that fit pyproject.toml into constraints.txt (torch stays: a CPU build is not made of each)
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet $$(grep "^torch==" constraints.txt)
	build/lock/bin/python -m pip install --quiet --group dev --group test --editable '.[convert,documents,plot,transformers]'
	build/lock/bin/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.pip: constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("ebbtide needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	$(INSTALL) --editable '.[plot]'
	@touch $@

# torch by itself first: where a build without CUDA is offered, the extra then keeps it.
$(VENV)/.develop: $(VENV)/.pip pyproject.toml
	$(INSTALL) torch
	$(INSTALL) --group dev --group test --editable '.[convert,documents,plot,transformers]'
	@touch $@ $(VENV)/.demo
