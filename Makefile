# Two commands matter: `make demo` and `make test`. The rest are their parts.
SHELL := /bin/bash
CACHE := $(or $(LORA_OPERATOR_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/lora-operator)
PYTHON ?= python3
VENV := .venv
VENV_TRAINER := .venv-trainer
export UV_CACHE_DIR := $(CACHE)/uv

.DEFAULT_GOAL := help
.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | column -t -s $$'\t'

# --- environments -------------------------------------------------------------------------------------------------
# Bytecode is compiled here, also where the user has Python write none (PYTHONDONTWRITEBYTECODE): tests start the
# trainer hundreds of times, and importing torch and Unsloth from their sources takes ten seconds more.
OR_SAY = || { echo "Python packages did not install, for the reason above. Next: run the same command again; it goes on from there."; exit 1; }
$(VENV)/bin/uv: requirements/bootstrap.txt
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || apt-get install -y -qq python3-venv \
	  || { echo "Python's venv module is missing: install python3-venv as root, then try again."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing requirements/bootstrap.txt"
	@$(VENV)/bin/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt $(OR_SAY)
	@touch $@

$(VENV)/.synced: $(VENV)/bin/uv requirements/dev.txt requirements/compile_bytecode.py pyproject.toml
	@echo "installing requirements/dev.txt"
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --require-hashes -r requirements/dev.txt $(OR_SAY)
	$(VENV)/bin/python requirements/compile_bytecode.py
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	@touch $@

$(VENV_TRAINER)/.synced: $(VENV)/bin/uv requirements/trainer-dev.txt requirements/compile_bytecode.py pyproject.toml
	$(VENV)/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV_TRAINER)
	@echo "installing requirements/trainer-dev.txt"
	@$(VENV)/bin/uv pip install --quiet --python $(VENV_TRAINER)/bin/python --no-deps --require-hashes -r requirements/trainer-dev.txt $(OR_SAY)
	$(VENV_TRAINER)/bin/python requirements/compile_bytecode.py
	$(VENV)/bin/uv pip install --quiet --python $(VENV_TRAINER)/bin/python --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: venv venv-trainer
venv: $(VENV)/.synced ## Python environment for the operator, the tools and the tests
venv-trainer: $(VENV_TRAINER)/.synced ## Python environment of the trainer (torch, Unsloth: 5.4 GB)

COMPILE := $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
.PHONY: lock
lock: $(VENV)/bin/uv ## Rewrite the hashed requirement files from pyproject.toml
	$(COMPILE) requirements/bootstrap.in -o requirements/bootstrap.txt
	$(COMPILE) requirements/sbom.in -o requirements/sbom.txt
	$(COMPILE) pyproject.toml --extra operator -o requirements/operator.txt
	$(COMPILE) pyproject.toml --extra dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --extra trainer --override requirements/overrides.txt -o requirements/trainer.txt
	$(COMPILE) pyproject.toml --extra trainer --extra vllm --override requirements/overrides.txt --override requirements/overrides-vllm.txt -o requirements/trainer-vllm.txt
	$(COMPILE) pyproject.toml --extra prepare -c requirements/trainer.txt -o requirements/prepare.txt
	$(COMPILE) pyproject.toml --extra trainer --extra test --override requirements/overrides.txt -c requirements/trainer.txt -o requirements/trainer-dev.txt

# --- the product -------------------------------------------------------------------------------------------------
.PHONY: generate system-packages demo demo-down
generate: venv ## Rewrite what is generated from the code: the CRDs and the admission policy
	$(VENV)/bin/python -m lora_operator.generate.crds manifests/crd
	$(VENV)/bin/python -m lora_operator.generate.admission manifests/policy

system-packages: venv ## Install the Debian packages of the test cluster (root)
	$(VENV)/bin/python -m tests.cluster system-packages

demo: venv ## From nothing to a proven adapter on a real cluster (root)
	$(VENV)/bin/python -m tests.demo up

demo-down: venv ## End the demo's cluster and remove its traces (root)
	$(VENV)/bin/python -m tests.demo down

# --- checks and tests --------------------------------------------------------------------------------------------
SOURCES = $(shell git ls-files --cached --others --exclude-standard "*.py")
# What imports torch and its kin is checked in the environment that has them.
TORCH_CODE := trainer-image/% tests/families/% tests/trainer/% tests/support/% $(addprefix benchmarks/,bare_trainer.py gpu.py gpu_machine.py gpu_peers.py gpu_profile.py gpus.py oom.py quality.py sweep.py trainer.py verification.py vram.py vram_fit.py)
# Which files, options and environment each of these has: tests/runner/suites.py.
SUITES := $(VENV)/bin/python -m tests.runner.suite
.PHONY: check programs test-unit test-component test-trainer test-trainer-quick test-cluster test-cluster-alone
check: venv venv-trainer ## Lint, format, types, import rules, generated files
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/basedpyright --pythonpath $(VENV)/bin/python $(filter-out $(TORCH_CODE),$(SOURCES))
	@$(VENV)/bin/basedpyright --pythonpath $(VENV_TRAINER)/bin/python $(filter $(TORCH_CODE),$(SOURCES))
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -m lora_operator.generate.crds build/crd && diff -r -x kustomization.yaml build/crd manifests/crd
	$(VENV)/bin/python -m lora_operator.generate.admission build/policy && diff -r -x kustomization.yaml build/policy manifests/policy

test-unit: venv ## The inner loop: no root, no Go, no torch
	@$(SUITES) $@

test-component: venv ## The operator against the fake API server
	@$(SUITES) $@

.PHONY: test-commands
test-commands: venv venv-trainer ## What help, README and docs name, each in its smallest form
	@$(SUITES) $@

.PHONY: test-faults
SEED ?= 1
FAULTS ?= 1000
test-faults: venv ## Operators among faults in simulated time, at length: SEED=text FAULTS=number ONLY=episode
	$(VENV)/bin/python -m tests.faults --seed '$(SEED)' --faults $(FAULTS) --only '$(ONLY)'

.PHONY: test-properties
ROWS ?= 20000
test-properties: venv ## What holds for every row of a dataset, on many of them: SEED=text ROWS=number ONLY=test
	$(VENV)/bin/python -m tests.properties --seed '$(SEED)' --rows $(ROWS) --only '$(ONLY)'

.PHONY: fuzz
COUNT ?= 5000
fuzz: system-packages ## Random objects for a real API server and operator: SEED=text COUNT=number ONLY=number (root, Go)
	$(VENV)/bin/python -m tests.fuzz --seed '$(SEED)' --count $(COUNT) $(if $(ONLY),--only $(ONLY))

programs: venv ## Build the programs of the test cluster and of the S3 server (Go)
	$(VENV)/bin/python -m tests.cluster build

test-trainer: venv-trainer programs ## The trainer with real weights, rows and a real S3 server (Go)
	@$(SUITES) $@

test-trainer-quick: venv-trainer programs
	@$(SUITES) $@

test-cluster: system-packages ## Everything together on a real cluster (root, Go)
	@$(SUITES) $@

test-cluster-alone: system-packages ## What has the cluster to itself: queues, parts of it away, installing (root, Go)
	@$(SUITES) $@

# Lanes of parts, and what comes `then`: tests/runner/__main__.py.
.PHONY: test test-quick test-durations
BASE ?= origin/main
SELECTION := build/selection.json
RUN_PARTS = $(if $(CHANGED),$(VENV)/bin/python -m tests.changed --base '$(BASE)' --out $(SELECTION) && )$(PYTHON) -m tests.runner $(if $(CHANGED),--selection $(SELECTION))
test: $(if $(CHANGED),venv) ## All checks and tests, with a table of where the time went; CHANGED=1 BASE=ref: what a change can reach
	@$(RUN_PARTS) check,test-unit,test-component,test-commands,system-packages,programs then test-trainer test-cluster-alone then test-cluster

test-quick: $(if $(CHANGED),venv) ## What to run before a commit: no cluster, and one small training (Go); CHANGED=1 BASE=ref as above
	@$(RUN_PARTS) check,test-unit,test-component,test-commands,test-trainer-quick

test-durations: ## Make the last run's seconds the measure of what grew: rewrites tests/durations.tsv
	@$(PYTHON) -m tests.runner.durations

.PHONY: bench-trainer bench-operator bench-demo
bench-trainer: venv venv-trainer ## Seconds per step against a bare script into benchmarks/results/trainer.json (Go)
	$(VENV)/bin/python -m tests.cluster build >/dev/null
	$(VENV_TRAINER)/bin/python -m benchmarks.trainer

bench-operator: system-packages venv ## The operator under load, beside Kubeflow Trainer, into benchmarks/results/operator.json (root, Go)
	$(VENV)/bin/python -m benchmarks.load

bench-demo: venv ## Figures of the demo into benchmarks/results/demo.json (root)
	$(VENV)/bin/python -m benchmarks.demo
