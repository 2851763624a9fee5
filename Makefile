# make app | test | check | docs | gpu | pictures | recorded, and a command for each result page: make help lists them   (CONTRIBUTING.md says what each is for)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
HOST ?= 127.0.0.1
PORT ?= 7860
ARGS ?=
OUT ?= gpu-run
MINUTES ?= 28
FROM ?= gpu-run
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
TORCHAO := $(shell grep -om1 'torchao==[0-9.]*' pyproject.toml)
PEFT := $(shell grep -om1 'peft==[0-9.]*' pyproject.toml)

.PHONY: help app test check docs pictures recorded support quality balance ablations efforts allocation sharing capture cpu bench sensitivity plans transforms learned peers gpu gpu-wheels gpu-results lock clean env

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

app: env ## the app on http://127.0.0.1:7860; PORT=.. HOST=.. pass on
	@$(BIN)/dqviz app --host "$(HOST)" --port "$(PORT)" $(ARGS)

# A file of tests goes to one process, which computes on one thread (`tests/conftest.py`).
test: env ## the whole test suite, a process for each core (four at most); ARGS=.. goes to pytest
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile $(ARGS)

check: env ## format, lint, types, import contracts
	@$(BIN)/ruff format --check --output-format concise .
	@$(BIN)/ruff check --output-format concise .
	@$(BIN)/basedpyright --level error
	@PYTHONPATH=. $(BIN)/lint-imports

docs: env ## rewrite the generated blocks and tables of the documentation
	@$(BIN)/python -m docs.generate --write

env: $(VENV)/.installed $(VENV)/.project $(VENV)/torchao/.$(TORCHAO) $(VENV)/peft/.$(PEFT)

# The lock pins versions, not files: the torch wheel differs from machine to machine.
$(VENV)/.installed: requirements.lock
	@python=$$(bash .ci/find-python "$(PYTHON)"); \
	if [ ! -x $(BIN)/python ]; then \
	  echo "creating $(VENV) with $$python"; \
	  "$$python" -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }; \
	fi
	@echo "installing requirements.lock into $(VENV) (a few minutes the first time)"
	@$(PIP) install --requirement requirements.lock
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.installed
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# What `dqviz export --to torchao` writes is reopened with it, in a process of its own: no other import finds it here.
$(VENV)/torchao/.$(TORCHAO): | $(VENV)/.installed
	@rm -rf $(VENV)/torchao
	@$(PIP) install --no-deps --target $(VENV)/torchao $(TORCHAO)
	@touch $@

# LoRA adapters beside quantized layers are tested with it, likewise in a process of their own.
$(VENV)/peft/.$(PEFT): | $(VENV)/.installed
	@rm -rf $(VENV)/peft
	@$(PIP) install --no-deps --target $(VENV)/peft $(PEFT)
	@touch $@

pictures: env ## docs/pictures/*.png: every page over the recorded study, light and dark, wide and narrow
	@$(BIN)/python -m tests.app.screenshots $(ARGS)

recorded: env ## assets/studies/dit-emoji: the study that comes along, made anew
	@$(BIN)/python -m benchmarks.recorded $(ARGS)

support: env ## docs/results/support.json: what works with what, tried cell by cell
	@DQVIZ_WRITE_SUPPORT=1 $(BIN)/python -m pytest tests/quant/test_support.py $(ARGS)

quality: env ## docs/results/quality.*: our methods at several bit widths, with the yardstick ladder
	@$(BIN)/python -m benchmarks.quality $(ARGS)

balance: env ## docs/results/balance.*: the choice of a transform against every single kind
	@$(BIN)/python -m benchmarks.balance $(ARGS)

ablations: env ## docs/results/ablations.*: parts of ViDiT-Q switched one at a time
	@$(BIN)/python -m benchmarks.ablations $(ARGS)

sharing: env ## docs/results/sharing.*: attention sharing on and off, quality, work and time
	@$(BIN)/python -m benchmarks.sharing $(ARGS)

efforts: env ## docs/results/efforts.*: seconds of calibrating and quantizing beside what was predicted, bytes of the tiers
	@$(BIN)/python -m benchmarks.efforts $(ARGS)

allocation: env ## docs/results/allocation.*: time and gap of choosing formats under budgets
	@$(BIN)/python -m benchmarks.allocation $(ARGS)

capture: env ## docs/results/capture.*: what capturing costs in time, memory and bytes
	@$(BIN)/python -m benchmarks.capture $(ARGS)

bench: env ## dit-emoji on this machine beside its peers: ARGS="--model dit-xl-2 --tune"; written down by --tune alone
	@PYTHONPATH=$(VENV)/torchao $(BIN)/dqviz bench $(ARGS)

cpu: env ## docs/results/cpu.*: integer products beside float32 and peers on this processor, and the memory that weights take
	@PYTHONPATH=$(VENV)/torchao $(BIN)/python -m benchmarks.cpu $(ARGS)

sensitivity: env ## docs/results/sensitivity.*: cheap tiers of sensitivity beside exact flips, ranks and what they take
	@$(BIN)/python -m benchmarks.sensitivity $(ARGS)

plans: env ## docs/results/plans.*: solved plans beside uniform, random and greedy ones at equal bytes; predicted losses beside measured ones
	@$(BIN)/python -m benchmarks.plans $(ARGS)

transforms: .venv-peers/.installed ## docs/results/transforms.*: every method against every kind of outlier
	@.venv-peers/bin/python -m benchmarks.transforms $(ARGS)

learned: .venv-peers/.installed ## docs/results/learned.*: the learned methods, their ablations and what they start from
	@.venv-peers/bin/python -m benchmarks.learned $(ARGS)

peers: .venv-peers/.installed ## docs/results/peers.*: torchao and optimum-quanto beside ours, in an environment of its own
	@.venv-peers/bin/python -m benchmarks.peers $(ARGS)

# On a rented GPU there is an image with PyTorch and no network: no environment is made, what the image lacks comes from .gpu-wheels.
gpu: export PYTHONPATH := $(abspath $(OUT))-packages:$(CURDIR):$(PYTHONPATH)
gpu: ## measure on this machine's GPU, into OUT=gpu-run in MINUTES=28; the same call goes on (docs/gpu.md)
	@python="$(BIN)/python"; [ -x "$$python" ] || python=$$(bash .ci/find-python "$(PYTHON)"); \
	if [ -d .gpu-wheels ]; then "$$python" -m benchmarks.gpu.wheels install .gpu-wheels --into "$(OUT)-packages"; fi; \
	"$$python" -m benchmarks.gpu --out "$(OUT)" --minutes "$(MINUTES)" $(ARGS)

gpu-wheels: ## .gpu-wheels: what a CUDA image lacks, to carry along (needs the network); ARGS='--python 3.12'
	@"$$(bash .ci/find-python "$(PYTHON)")" -m benchmarks.gpu.wheels fetch .gpu-wheels $(ARGS)

gpu-results: env ## docs/results/gpu.* and tiles for the launcher, of what make gpu wrote: FROM=gpu-run
	@$(BIN)/python -m benchmarks.gpu_page "$(FROM)" $(ARGS)
	@$(BIN)/python -m docs.generate --write

# The same lock, then the peers on top; nothing of theirs gets into $(VENV).
.venv-peers/.installed: requirements.lock pyproject.toml
	@"$$(bash .ci/find-python "$(PYTHON)")" -m venv .venv-peers
	@.venv-peers/bin/python -m pip --disable-pip-version-check -qq install --requirement requirements.lock
	@.venv-peers/bin/python -m pip --disable-pip-version-check -qq install --no-build-isolation --editable ".[peers]"
	@touch $@

lock: ## write requirements.lock anew from pyproject.toml (needs the network)
	@bash .ci/find-python "$(PYTHON)" | xargs -I{} {} .ci/lock.py

clean: ## remove the environment and caches; studies stay
	@rm -rf $(VENV) .venv-peers .pytest_cache .ruff_cache .hypothesis .import_linter_cache build *.egg-info
