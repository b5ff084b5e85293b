# Every target sets up what it needs; `make help` names them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
# torch and what comes with it is over a GB, so that the tests of predictors have a place of their own.
PREDICTORS := .venv-predictors
# mkdocs brings packages that nothing else needs.
DOCS := .venv-docs
# Object stores that tests start: rclone and OpenStack Swift.
STORES := .venv-stores
# Microsoft's emulator of Azure, for `make soak`.
AZURITE := .azurite
ARGS :=
# Each process of the tests would compile all of them anew where the environment forbids to keep that.
export PYTHONDONTWRITEBYTECODE :=
# Those of whole downloads wait for two thirds of their time, so that more run at a time than there
# are processors; each process takes 4 s to collect them all. -n0 in ARGS runs them one by one (for
# --pdb, and for what they print).
SIDE_BY_SIDE := -n 5 --dist worksteal
# Their tests have marks that leave them out, but each process would import them all the same.
LEFT_OUT := real_servers slow predictors

.PHONY: help setup demo test check soak test-predictors bench fleet-simulation gpu-wheels docs docs-options dist clean

help: ## name the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is written last, so that a setup that was cut off is done again.
$(READY): pyproject.toml scripts/setup.sh
	@PYTHON='$(PYTHON)' scripts/setup.sh $(VENV) dev
	@touch $@

$(PREDICTORS)/.ready: pyproject.toml scripts/setup.sh
	@PYTHON='$(PYTHON)' scripts/setup.sh $(PREDICTORS) predictors
	@touch $@

$(DOCS)/.ready: pyproject.toml scripts/setup.sh
	@PYTHON='$(PYTHON)' scripts/setup.sh $(DOCS) docs
	@touch $@

$(STORES)/.ready: tests/real_servers/stores.txt | $(READY)
	@rm -rf $(STORES)
	@$(PY) -m venv $(STORES)
	@$(STORES)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Without npm its tests are skipped.
$(AZURITE)/.ready:
	@mkdir -p $(AZURITE)
	@! command -v npm >/dev/null || npm install --silent --no-audit --no-fund --prefix $(AZURITE) azurite@3.35.0
	@touch $@

setup: $(READY) ## make .venv with package and tools (PYTHON=/path/to/it)

demo: $(READY) ## download made-up weights from a server of our own
	@$(PY) -m scripts.demo $(ARGS)

# --sample leaves two thirds of the rows of long tables to `make soak`; who names tests gets all of them.
test: $(READY) ## run the quick tests (ARGS=tests/unit/cache for some)
	@$(PY) -m pytest -m "not real_servers and not soak and not predictors" $(LEFT_OUT:%=--ignore=tests/%) $(SIDE_BY_SIDE) $(if $(ARGS),$(ARGS),--sample)

check: $(READY) $(STORES)/.ready ## style, types, tests and those with real servers, as CI
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@$(MAKE) --no-print-directory test
	@$(PY) -m pytest -m "not soak" tests/real_servers $(SIDE_BY_SIDE)

soak: $(READY) $(STORES)/.ready $(AZURITE)/.ready ## run the long tests, and properties with many examples
	@$(PY) -m pytest -m "(soak or hypothesis) and not predictors" --sample --hypothesis-profile soak $(SIDE_BY_SIDE) $(ARGS)

test-predictors: $(PREDICTORS)/.ready ## run the tests with torch, diffusers and a Cog server
	@$(PREDICTORS)/bin/python -m pytest -m predictors tests/predictors -n 2 --dist loadfile $(ARGS)

bench: $(READY) ## time pgetpy and peers, write docs/bench.md (ARGS=--list)
	@$(PY) -m scripts.bench $(if $(ARGS),$(ARGS),--docs)

fleet-simulation: $(READY) ## simulate 1,000 machines in docs/fleet-simulation.md
	@$(PY) -m scripts.fleet_simulation --docs

docs: $(DOCS)/.ready ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs --quiet build --strict
	@echo "Open site/index.html"

gpu-wheels: ## collect the wheels that scripts/gpu.sh takes along
	@scripts/gpu.sh collect

docs-options: $(READY) ## write docs/options.md and the man page from the tables
	@$(PY) -m scripts.options
	@$(PY) -m scripts.manual

dist: $(READY) ## build the wheel and the source distribution into dist/
	@rm -rf dist
	@$(PY) -m build --outdir dist .

clean: ## remove everything that was made
	@rm -rf $(VENV) $(PREDICTORS) $(DOCS) $(STORES) $(AZURITE) .bench .gpu-wheels dist site build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
