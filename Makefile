# One verb per habit; `make` alone lists them. Works with GNU make 3.81 (macOS) and later.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

requirements := deploy/requirements
installer := $(requirements)/install.sh
python := .venv/bin/python
trainwright := .venv/bin/trainwright
code := libs services tests examples
export PYTHON

.PHONY: help
help: ## List what can be done here
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  \033[1mmake %-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.setup ## Make .venv: control plane, Kafka and the `trainwright` command; no torch

.venv/.setup: $(installer) $(requirements)/bootstrap.txt $(requirements)/base.txt $(requirements)/embedded.txt pyproject.toml
	@sh $(installer) setup
	@touch $@

.venv/.worker: .venv/.setup $(requirements)/worker.txt
	@sh $(installer) worker
	@touch $@

.venv/.dev: .venv/.setup $(requirements)/dev.txt
	@sh $(installer) dev
	@touch $@ .venv/.worker

.PHONY: worker
worker: .venv/.worker ## Add the worker's packages to .venv: PyTorch, for the recipe `forecast`

.PHONY: demo
demo: .venv/.worker ## Train a forecaster on real sales end to end, show the report, stop everything
	@$(trainwright) demo

.PHONY: up
up: .venv/.setup ## Start Kafka, all services and a worker here; Ctrl-C stops them
	@$(trainwright) up

.PHONY: down
down: .venv/.setup ## Stop what `make up` started; running attempts go on at the next `up`
	@$(trainwright) down

.PHONY: status
status: .venv/.setup ## Show what runs here
	@$(trainwright) status

.PHONY: test
test: .venv/.dev ## Run all tests, with a real Kafka started by the fixtures
	@$(python) -m pytest

.PHONY: check
check: .venv/.dev ## Format, lint, types, import rules, house rules
	@$(python) -m ruff format --check $(code)
	@$(python) -m ruff check $(code)
	@$(python) -m mypy libs services tests
	@.venv/bin/lint-imports --no-logo
	@$(python) -m pytest -q tests/house

.PHONY: format
format: .venv/.dev ## Rewrite the code in the house format
	@$(python) -m ruff format $(code)
	@$(python) -m ruff check --fix $(code)

.PHONY: contracts
contracts: .venv/.setup ## Write schemas, asyncapi.json and openapi.json anew; refuses what would break readers
	@$(python) -m trainwright.contracts.schemas docs/contracts
	@$(python) -m services.openapi docs/contracts/openapi.json

.PHONY: bench
bench: .venv/.dev ## Measure the platform's figures on this machine, some minutes
	@$(python) tests/bench/bench_run_log.py
	@$(python) -m tests.bench.bench_platform

.PHONY: faults
faults: .venv/.dev ## Kill everything at random while 200 tasks run, some minutes; `make test` has the short form
	@$(python) -m tests.faults.kill_everything

.PHONY: lock
lock: .venv/.setup ## Pin the requirement files anew from pyproject.toml (UPGRADE=1 moves versions)
	@sh $(requirements)/lock.sh

.PHONY: clean
clean: ## Remove caches and what setup made; data in .trainwright stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find $(code) -name __pycache__ -type d -prune -exec rm -rf {} +
