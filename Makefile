# The book's commands; `make help` lists them.

PROFILE ?= quick
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
TORCH ?= pip
PYTHON ?= python3
PORT ?= 8000
NOTEBOOK ?=
SET ?=
GATE ?= refuse
SEEDS ?= 0 100 200 300 400 500
PATHS ?= native avx2 default

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= $(if $(wildcard $(VENV)/.real-*),real)# what was once asked for stays up to date
TORCH_PIN := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
UV_PIN := uv==0.13.9
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONHASHSEED := 0

EXTRA_STAMPS := $(EXTRAS:%=$(VENV)/.%-$(TORCH))

.PHONY: help book test lint serve bench robust notebook lab record archive clean clean-runs
.DEFAULT_GOAL := help

help:  ## list the commands
	@echo "make COMMAND [OPTION=value …]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "Options"
	@echo "  PROFILE=quick|paper   small and quick, or the published sizes with 5 seeds (now: $(PROFILE))"
	@echo "  CORES=n               processes at a time (now: $(CORES))"
	@echo "  TORCH=pip|cpu|gpu     torch as pip finds it, without CUDA, or with the CUDA that fits (now: $(TORCH))"
	@echo "  EXTRAS=real           transformers, peft and a sentence encoder, for one chapter (now: $(or $(EXTRAS),none))"
	@echo "  GATE=refuse|warn      what becomes of a site when a check fails: nothing, or a banner (now: $(GATE))"
	@echo "  PYTHON=…              the Python (3.11 or newer) that makes .venv (now: $(PYTHON))"

book: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## execute every notebook and build the site to _build/html
	@$(BIN)/python -m workflow.build --profile $(PROFILE) --cores $(CORES) --gate $(GATE)

test: lint  ## everything that proves the project: style, types, library, notebooks, workflow, site
	@$(BIN)/python -m workflow.build --profile quick --cores $(CORES) --gate $(GATE)
	@$(BIN)/python -m pytest -n $(CORES) --dist loadfile $(PYTEST)

lint: $(VENV)/.test-$(TORCH) $(EXTRA_STAMPS)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

serve:  ## serve the built site on localhost
	@test -e _build/html/index.html || { echo "error: there is no site yet; run: make book" >&2; exit 1; }
	@echo "http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

notebook: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## run one notebook: NOTEBOOK=prefix_tuning/new_task SET="seeds=5"
	@test -n "$(NOTEBOOK)" || { echo 'error: say which: make notebook NOTEBOOK=prefix_tuning/new_task SET="seeds=5"' >&2; exit 1; }
	@$(BIN)/python -m workflow.execute $(NOTEBOOK) --profile $(PROFILE) $(if $(SET),--set $(SET))

lab: $(VENV)/.lab-$(TORCH) $(EXTRA_STAMPS)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

bench: $(VENV)/.test-$(TORCH) $(EXTRA_STAMPS)  ## time training steps against the plain baseline
	@$(BIN)/python -m benchmarks.bench

robust: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## the quick profile from other SEEDS and on other processor PATHS; how often which verdict
	@$(BIN)/python -m workflow.robust --cores $(CORES) --seeds $(SEEDS) --paths $(PATHS) $(if $(NOTEBOOK),--notebooks $(NOTEBOOK))

record: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## accept the verdicts of the last build into config/verdicts.yml, and what it took
	@$(BIN)/python -m workflow.collect --profile $(PROFILE) --record

archive: PROFILE = paper# unless another is asked for
archive: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## keep what a finished PROFILE=paper build measured in archive/, or run and keep one NOTEBOOK=… SET=…
	@$(BIN)/python -m workflow.archive $(NOTEBOOK) --profile $(PROFILE) $(if $(SET),--set $(SET))

clean:  ## remove what was built; training runs stay
	@rm -rf _build .snakemake

clean-runs:  ## remove the training runs too
	@rm -rf runs

# One stamp for each set of packages and kind of torch; a change of pins installs again.
$(VENV)/.book-$(TORCH): pyproject.toml constraints.txt
	@$(call check-python)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV) …"
	@$(call install-torch-$(TORCH))
	@$(call install,.)
	@rm -f $(VENV)/.*-pip $(VENV)/.*-cpu $(VENV)/.*-gpu
	@touch $@

$(VENV)/.test-$(TORCH): $(VENV)/.book-$(TORCH)
	@$(call install,.[test])
	@touch $@

$(VENV)/.lab-$(TORCH): $(VENV)/.book-$(TORCH)
	@$(call install,.[lab])
	@touch $@

$(VENV)/.real-$(TORCH): $(VENV)/.book-$(TORCH)
	@echo "Installing the extra packages of the chapter on real architectures (330 MB) …"
	@$(call install,.[real])
	@touch $@

ifneq ($(filter-out real,$(EXTRAS)),)
$(error EXTRAS must be real, or empty, got '$(EXTRAS)')
endif
ifeq ($(filter $(TORCH),pip cpu gpu),)
$(error TORCH must be pip, cpu or gpu, got '$(TORCH)')
endif

install = $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '$(1)'
install-torch-pip = $(BIN)/python -m pip install --quiet $(TORCH_PIN)
# uv knows where torch keeps its builds, by name.
install-torch-cpu = $(BIN)/python -m pip install --quiet $(UV_PIN) && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu --reinstall-package torch $(TORCH_PIN)
install-torch-gpu = $(BIN)/python -m pip install --quiet $(UV_PIN) && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend auto --reinstall-package torch $(TORCH_PIN)
check-python = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1); try PYTHON=python3.11" >&2; exit 1; }
