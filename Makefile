VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export PYTHONDONTWRITEBYTECODE = # empty: modules are compiled once, not at each of many starts

.DEFAULT_GOAL := help
.PHONY: help demo test thorough peers mutants check docs links picture reproduce train clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --no-compile -c constraints.txt torch uv
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed ## install, and run position patching on the shipped model and pairs
	$(BIN)/codi-patching predict --config position

test: $(VENV)/.installed-dev ## install, and run the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not thorough"

thorough: $(VENV)/.installed-dev ## the tests that take a minute or so each
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m thorough

$(VENV)/.installed-peers: $(VENV)/.installed-dev
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[dev,peers]'
	touch $@

peers: $(VENV)/.installed-peers ## whether other libraries give the same logits: TransformerLens, nnsight, pyvene
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 tests/test_peers.py

ROOMS ?= analysis metrics
EACH ?= 3
.mutants/coverage: $(VENV)/.installed-dev
	mkdir -p .mutants
	OMP_NUM_THREADS=1 COVERAGE_FILE=$(CURDIR)/$@ $(BIN)/pytest -p children_traced \
	  -n 2 --dist worksteal -m "not thorough" \
	  --junitxml .mutants/times.xml --cov codi_patching --cov-context test --cov-report=

mutants: .mutants/coverage ## small faults in rooms (ROOMS=…, EACH=… a file): which no test notices
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutants.py $(ROOMS) --each $(EACH)

check: $(VENV)/.installed-dev ## lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[docs]'
	touch $@

docs: $(VENV)/.installed-docs ## the site, in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build/html

links: $(VENV)/.installed-docs ## whether the site's links to other sites lead somewhere
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/links

picture: $(VENV)/.installed ## the picture of the README, of docs/results
	$(BIN)/python scripts/readme_picture.py

RUN := --trainer.logger false --results.overwrite true --report.pair_sheets false --report.page false
MODELS := docs/results/models
ON_PLAIN := --data.pairs codi-plain $(RUN) --results.dir $(MODELS)
reproduce: $(VENV)/.installed ## make docs/results and the reports again (half an hour)
	$(BIN)/codi-patching study --dir docs/results/codi-tiny --docs docs --model.checkpoint codi-tiny $(RUN)
	$(BIN)/codi-patching study --dir docs/results/codi-plain --docs docs --model.checkpoint codi-plain $(RUN)
	$(BIN)/codi-patching study --dir docs/results/codi-pause --docs docs --model.checkpoint codi-pause $(RUN)
	$(BIN)/codi-patching predict --config layer --model.checkpoint codi-tiny $(ON_PLAIN)/codi-tiny_layer_frozen
	$(BIN)/codi-patching predict --config position --model.checkpoint codi-tiny $(ON_PLAIN)/codi-tiny_position_recomputed
	$(BIN)/codi-patching predict --config layer --model.checkpoint codi-pause $(ON_PLAIN)/codi-pause_layer_frozen
	$(BIN)/codi-patching predict --config position --model.checkpoint codi-pause $(ON_PLAIN)/codi-pause_position_recomputed
	$(BIN)/codi-patching compare --dir $(MODELS)/comparison --no_page \
	  $(MODELS)/codi-tiny_layer_frozen $(MODELS)/codi-tiny_position_recomputed \
	  docs/results/codi-plain/layer_frozen docs/results/codi-plain/position_recomputed \
	  $(MODELS)/codi-pause_layer_frozen $(MODELS)/codi-pause_position_recomputed

MODEL ?= codi_tiny
train: $(VENV)/.installed ## train MODEL (codi_tiny, codi_plain, codi_pause) from nothing (70 to 120 minutes on one core)
	MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=8000000000 \
	  MALLOC_TOP_PAD_=200000000 OMP_NUM_THREADS=1 \
	  $(BIN)/codi-patching fit --config train_$(MODEL)

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
