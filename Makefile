# One verb per habit; `make` alone lists them. Works with GNU make 3.81 (macOS) and later.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

requirements := deploy/requirements
installer := $(requirements)/install.sh
python := .venv/bin/python
trainwright := .venv/bin/trainwright
code := libs services tests examples deploy
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

.venv/.mongo: .venv/.setup $(requirements)/mongo.txt
	@sh $(installer) mongo
	@touch $@

.PHONY: mongo
mongo: .venv/.mongo ## Add the clients of MongoDB and S3 to .venv, for services that keep their data there

.PHONY: minio
minio: ## Build MinIO with Go for the tests of S3, some minutes; without it they are skipped
	GOBIN="$(CURDIR)/.trainwright/bin" go install github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

.PHONY: kube
kube: ## Build Kubernetes' API server and etcd with Go for the tests of pods, ten minutes; without them they are skipped
	cd deploy/kubernetes/api-server && go build -trimpath -o "$(CURDIR)/.trainwright/bin/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
	cd deploy/kubernetes/api-server && go build -trimpath -o "$(CURDIR)/.trainwright/bin/etcd" go.etcd.io/etcd/server/v3

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

.PHONY: secrets
secrets: ## Make the secrets of docker-compose.yml in deploy/secrets; those that are there stay
	@sh deploy/secrets.sh

.PHONY: test
test: .venv/.dev ## Run all tests, with a real Kafka started by the fixtures
	@$(python) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: again
again: .venv/.dev ## Run the tests that failed once more, one after the other: a fault fails again
	@$(python) -m pytest --last-failed --last-failed-no-failures none

.PHONY: check
check: .venv/.dev ## Format, lint, types, import rules, house rules
	@$(python) -m ruff format --check $(code)
	@$(python) -m ruff check $(code)
	@$(python) -m mypy $(code)
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
bench: .venv/.dev .venv/.mongo ## Measure the platform's figures on this machine, some minutes
	@$(python) tests/bench/bench_run_log.py
	@$(python) tests/bench/bench_run_context.py
	@$(python) -m tests.bench.bench_checkpoint
	@$(python) -m tests.bench.bench_recovery
	@$(python) -m tests.bench.bench_stream
	@$(python) -m tests.bench.bench_events
	@$(python) -m tests.bench.bench_platform
	@$(python) tests/bench/bench_configs.py
	@$(python) -m tests.bench.bench_engines
	@test ! -x .trainwright/bin/minio || $(python) -m tests.bench.bench_blobs
	@$(python) -m tests.bench.bench_install
	@$(python) -m tests.bench.bench_scheduler
	@$(python) -m tests.bench.bench_many_tasks
	@test -z "$(RAY)" || $(python) -m tests.bench.bench_first_line $(RAY)

SEED ?= 1
MINUTES ?= 15
.PHONY: faults
faults: .venv/.dev ## Break everything while tasks run, SEED=1, MINUTES=15 a part; goes on where it stopped (build/faults)
	@$(python) -m tests.faults.protocol_campaign --seed $(SEED) --minutes $(MINUTES)
	@$(python) -m tests.faults.campaign --seed $(SEED) --minutes $(MINUTES)
	@$(python) -m tests.faults.outages --scenario all
	@$(python) -m tests.faults.classify_failures
	@for run in arrays plain steps looped forecast lora; do $(python) -m tests.faults.kill_points --run $$run || exit 1; done

SEEDS ?= 1000
TASKS ?= 20
.PHONY: simulate
simulate: .venv/.dev ## Simulate the control plane under faults on all cores, SEEDS=1000, TASKS=20; then hunt every planted bug
	@MACHINE_EXAMPLES=1000 $(python) -m pytest -q tests/simulation/test_machines.py
	@$(python) -m tests.simulation.simulate --seeds $(SEEDS) --tasks $(TASKS)
	@$(python) -m tests.simulation.mutations

TESTS ?= tests
ONLY ?= libs services
.PHONY: excepts
excepts: .venv/.dev ## List every `except` that no test executes, TESTS=tests, ONLY="libs services"; longer than the tests
	@$(python) -m tests.excepts --tests "$(TESTS)" $(ONLY)

.PHONY: lock
lock: .venv/.setup ## Pin the requirement files anew from pyproject.toml (UPGRADE=1 moves versions)
	@sh $(requirements)/lock.sh

.PHONY: clean
clean: ## Remove caches and what setup made; data in .trainwright stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find $(code) -name __pycache__ -type d -prune -exec rm -rf {} +
