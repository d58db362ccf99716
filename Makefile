VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

REPRODUCE := --config configs/reproduce.yaml --results.dir docs/results

.DEFAULT_GOAL := help
.PHONY: help demo test check reproduce train clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed ## install, and run position patching on the shipped model and pairs
	$(BIN)/codi-patching predict --config configs/position.yaml

test: $(VENV)/.installed-dev ## install, and run the tests
	$(BIN)/pytest

check: $(VENV)/.installed-dev ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reproduce: $(VENV)/.installed ## make docs/results and the reports again
	$(BIN)/codi-patching predict --config configs/layer.yaml $(REPRODUCE)/layer
	$(BIN)/codi-patching predict --config configs/position.yaml $(REPRODUCE)/position
	$(BIN)/codi-patching predict --config configs/iterative_cumulative.yaml \
	  $(REPRODUCE)/iterative_cumulative --comparison.layer null --comparison.position null
	$(BIN)/codi-patching predict --config configs/iterative.yaml \
	  $(REPRODUCE)/iterative \
	  --comparison.layer docs/results/layer --comparison.position docs/results/position \
	  --comparison.iterative '[docs/results/iterative_cumulative]' \
	  --comparison.dir docs/results/comparison

train: $(VENV)/.installed ## train codi-tiny again from nothing (over an hour on 2 cores)
	$(BIN)/codi-patching fit --config configs/train_codi_tiny.yaml

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
