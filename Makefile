# The front door. CI calls the same targets as people do.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
PY := $(BIN)/python
READY := .venv/.ready
PYTEST := $(PY) -m pytest
# Pass options to pytest with ARGS, for example: make test-unit ARGS='-k audit -x'
ARGS ?=
CLUSTER ?= devcluster
KEEP ?=

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

##@ Start

.PHONY: setup
setup: $(READY) ## Make .venv with everything, by hash; on Debian as root also what it needs

$(READY): requirements/dev.txt requirements/setup.sh pyproject.toml hatch_build.py workers/ecompile_workers/codegen/native.c
	bash requirements/setup.sh

.PHONY: demo
demo: setup ## One model's life on a real cluster; KEEP=1 leaves it running, CLUSTER=devcluster|kind|current
	$(PY) -m demo --cluster $(CLUSTER) $(if $(filter-out 0,$(KEEP)),--keep)

.PHONY: cluster-up
cluster-up: setup ## Start the development cluster; prints the kubeconfig's path
	$(PY) -m devcluster up

.PHONY: cluster-down
cluster-down: ## End the development cluster and leave nothing behind
	$(if $(wildcard $(PY)),$(PY),python3) -m devcluster down

.PHONY: cluster-logs
cluster-logs: ## Newest lines of the development cluster's logs
	$(if $(wildcard $(PY)),$(PY),python3) -m devcluster logs

.PHONY: images
images: setup ## Build the three images with buildah, and load them where the development cluster runs
	$(PY) -m demo.images

##@ Check

.PHONY: test
test: lint verify docs test-unit test-component test-e2e ## Everything: lint, generated files, docs, unit, component, end to end

.PHONY: lint
lint: setup ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: test-unit
test-unit: setup ## Unit tests: no cluster, no network
	$(PYTEST) tests/unit $(ARGS)

.PHONY: test-component
test-component: setup ## Component tests: a real API server, real processes
	$(PYTEST) tests/component $(ARGS)

.PHONY: test-e2e
test-e2e: setup ## End-to-end tests on a whole cluster; needs root
	$(PYTEST) tests/e2e $(ARGS)

.PHONY: bench
bench: setup ## Benchmarks against peers, each prints a table
	for bench in bench/*.py; do echo "== $$bench"; $(PY) "$$bench"; done

##@ Generate

.PHONY: generate
generate: setup ## Write every generated file: control stubs, CRDs, reference documentation
	bash requirements/generate.sh

.PHONY: verify
verify: setup ## Generate in a copy and compare: are the generated files current?
	bash requirements/verify.sh

.PHONY: golden
golden: setup ## Rewrite golden files of tests; review the diff
	ECO_UPDATE_GOLDEN=1 $(PYTEST) tests/unit -q $(ARGS)
	git --no-pager diff --stat -- tests

.PHONY: lock
lock: setup ## Write requirements/*.txt again after a change of dependencies in pyproject.toml
	bash requirements/lock.sh

.PHONY: docs
docs: setup ## Build the documentation into site/; warnings are errors
	$(BIN)/mkdocs build --strict --quiet

.PHONY: clean
clean: ## Remove what was built here; caches outside the repository stay
	rm -rf .venv site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
	rm -f workers/ecompile_workers/codegen/_native.abi3.so
