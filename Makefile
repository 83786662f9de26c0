# ECOmpile. Bare `make` lists everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest
SOURCES := crds/ecompile_crds operator/ecompile_operator operator/ecompile_kubectl workers/ecompile_workers
CLUSTER ?= devcluster
DEMO_FLAGS := --cluster $(CLUSTER) $(if $(KEEP),--keep) $(if $(YES),--yes) $(if $(RECORD),--record $(RECORD))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint test-unit test-component test-e2e generate golden verify docs bench images krew cluster-up cluster-down cluster-logs clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | awk -F'\t' '{printf "  %-16s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with everything, pinned by hash

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml hatch_build.py workers/ecompile_workers/codegen/native.c
	@PYTHON="$(PYTHON)" sh devcluster/setup.sh
	@touch $@

demo: setup ## One model's whole life on a real cluster (KEEP=1 keeps it; CLUSTER=devcluster|kind|current)
	$(BIN)/python -m demo $(DEMO_FLAGS)

test: lint test-unit test-component test-e2e ## Everything: lint, types, unit, component, end to end

lint: setup ## ruff, mypy --strict, import-linter, generated files current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES) devcluster demo bench hatch_build.py
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory verify

test-unit: setup ## Unit tests: no cluster, under two minutes
	$(PYTEST) tests/unit --numprocesses auto --dist worksteal

test-component: setup ## Component tests: a real API server, no root
	$(PYTEST) tests/component

test-e2e: setup ## End-to-end tests: the whole development cluster, as root
	$(PYTEST) tests/e2e

generate: setup ## Regenerate CRDs, chart copies, control stream stubs and reference docs
	PATH="$(CURDIR)/$(BIN):$$PATH" PYTHON="$(CURDIR)/$(BIN)/python" sh crds/generate_control.sh
	$(BIN)/python -m ecompile_crds.schema crds
	cp crds/*.ecompile.dev.yaml charts/ecompile/files/
	$(BIN)/python -m ecompile_crds.reference docs/reference
	$(BIN)/python -m ecompile_operator.decide.diagram docs/reference/stages.md

golden: setup ## Rewrite the expected renders of the chart and the kustomize base; look at the diff before committing
	ECO_GOLDEN=1 $(PYTEST) tests/component/test_chart.py

verify: setup ## Check that generated files are current
	$(BIN)/python -m ecompile_crds.verify
	$(BIN)/python -m ecompile_operator.decide.diagram --check docs/reference/stages.md

docs: setup ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

bench: setup ## Benchmarks against ONNX Runtime, and of serving
	$(BIN)/python bench/first.py
	$(BIN)/python bench/serving.py

images: setup ## Build the three images with buildah
	$(BIN)/python -m demo.images

krew: setup ## Build the kubectl plugin's archive and krew manifest into dist/ (KREW_URI=, KREW_HOMEPAGE=: their addresses)
	@PYTHON="$(CURDIR)/$(BIN)/python" KREW_URI="$(KREW_URI)" KREW_HOMEPAGE="$(KREW_HOMEPAGE)" sh operator/krew/build.sh

cluster-up: setup ## Start the development cluster (root)
	$(BIN)/python -m devcluster up

cluster-down: ## End it and leave nothing behind
	$(PYTHON) -m devcluster down

cluster-logs: ## Newest lines of all component logs
	$(PYTHON) -m devcluster logs

clean: ## Remove .venv and build outputs
	rm -rf $(VENV) site dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
