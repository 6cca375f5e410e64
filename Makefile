# The book's commands; `make help` lists them.

PROFILE ?= quick
CORES ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
TORCH ?= pip
PYTHON ?= python3
PORT ?= 8000
NOTEBOOK ?=
SET ?=
GATE ?= refuse
DEVICE ?=
MINUTES ?= 10
FULL ?=
SEEDS ?= 0 100 200 300 400 500
PATHS ?= native avx2 default

SHELL := /bin/bash
unexport BASH_ENV
VENV := .venv
RUN := $(VENV)/bin/python -E# tools are modules: scripts in bin name their Python by an absolute path
EXTRAS ?= $(if $(wildcard $(VENV)/.real-*),real)# what was once asked for stays up to date
TORCH_PIN := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
UV_PIN := $(shell sed -n 's/^UV = "\(.*\)"/\1/p' workflow/install.py)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_USER := 0
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_REQUIREMENT

EXTRA_STAMPS := $(EXTRAS:%=$(VENV)/.%-$(TORCH))

.NOTPARALLEL:
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
	@echo "  FULL=1                for make test: also builds that are killed at further places"
	@echo "  PYTHON=…              the Python (3.11 or newer) that makes .venv (now: $(PYTHON))"

book: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## execute every notebook and build the site to _build/html
	@$(RUN) -m workflow.build --profile $(call literal,$(PROFILE)) --cores $(call literal,$(CORES)) --gate $(call literal,$(GATE))

test: lint  ## everything that proves the project: style, types, library, notebooks, workflow, site
	@$(RUN) -m workflow.build --profile quick --cores $(call literal,$(CORES)) --gate $(call literal,$(GATE))
	@$(RUN) -m workflow.clean pytest -n $(call literal,$(CORES)) --dist loadfile --no-loadscope-reorder $(if $(FULL),,-m 'not full') $(PYTEST)

lint: $(VENV)/.test-$(TORCH) $(EXTRA_STAMPS)  ## style and types
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m workflow.clean mypy

serve:  ## serve the built site on localhost
	@$(if $(wildcard $(VENV)/bin/python),$(RUN),"$(PYTHON)" -E) -m workflow.serve --port $(call literal,$(PORT))

notebook: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## run one notebook: NOTEBOOK=prefix_tuning/new_task SET="seeds=8"
	@test -n $(call literal,$(NOTEBOOK)) || { echo 'error: say which: make notebook NOTEBOOK=prefix_tuning/new_task SET="seeds=8"' >&2; exit 1; }
	@$(RUN) -m workflow.execute $(call literal,$(NOTEBOOK)) --profile $(call literal,$(PROFILE)) $(if $(value SET),--set $(call literal,$(value SET)))

lab: $(VENV)/.lab-$(TORCH) $(EXTRA_STAMPS)  ## open the notebooks in JupyterLab
	@$(RUN) -m jupyterlab notebooks

bench: $(VENV)/.test-$(TORCH) $(EXTRA_STAMPS)  ## time training steps against the plain baseline
	@$(RUN) -m workflow.clean benchmarks.bench

robust: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## the quick profile from other SEEDS and on other processor PATHS; how often which verdict
	@$(RUN) -m workflow.robust --cores $(call literal,$(CORES)) --seeds $(SEEDS) --paths $(PATHS) $(if $(NOTEBOOK),--notebooks $(NOTEBOOK))

record: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## accept the verdicts of the last build into config/verdicts.yml, and what it took
	@$(RUN) -m workflow.collect --profile $(call literal,$(PROFILE)) --record

archive: PROFILE = paper# unless another is asked for
archive: $(VENV)/.book-$(TORCH) $(EXTRA_STAMPS)  ## keep what a finished PROFILE=paper build measured in archive/, or run and keep one NOTEBOOK=… SET=…, or train on DEVICE=gpu for MINUTES=10
	@$(if $(filter gpu,$(DEVICE)),$(RUN) -m workflow.lockstep.archive --profile $(call literal,$(PROFILE)) --minutes $(call literal,$(MINUTES)),$(RUN) -m workflow.archive $(if $(NOTEBOOK),$(call literal,$(NOTEBOOK))) --profile $(call literal,$(PROFILE)) $(if $(value SET),--set $(call literal,$(value SET))))

clean:  ## remove what was built; training runs stay
	@rm -rf _build .snakemake

clean-runs:  ## remove the training runs too
	@rm -rf runs

# One stamp for each set of packages and kind of torch; a change of pins installs again, and so does
# an upgrade of the system that takes the Python of .venv away.
$(shell test -x $(VENV)/bin/python || rm -f $(VENV)/.*-pip $(VENV)/.*-cpu $(VENV)/.*-gpu)
$(VENV)/.book-$(TORCH): pyproject.toml constraints.txt
	@$(call check-python)
	@$(RUN) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -I -m venv --clear $(VENV) || { rm -rf $(VENV); \
		echo "error: $(PYTHON) made no virtual environment, it says why above (Debian needs its package python3-venv)" >&2; exit 1; }
	@echo "Installing the pinned packages into $(VENV) …"
	@$(call install-torch-$(TORCH))
	@$(call install,.[book])
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
ifneq ($(filter-out 1,$(FULL)),)
$(error FULL must be 1, or empty, got '$(FULL)')
endif
ifeq ($(filter $(TORCH),pip cpu gpu),)
$(error TORCH must be pip, cpu or gpu, got '$(TORCH)')
endif

# One word for the shell, whatever is in it.
literal = '$(subst ','\'',$(1))'

pip = $(RUN) -m pip install --quiet
uv = $(pip) $(UV_PIN) && $(RUN) -m uv pip install --quiet --python $(VENV)/bin/python --reinstall-package torch
failed = || { echo "error: not installed; the lines above say why, and the next call tries again" >&2; exit 1; }
install = $(RUN) workflow/install.py --constraint constraints.txt --editable '$(1)' $(failed)
install-torch-pip =# comes with the rest, in one go
# uv knows where torch keeps its builds, by name.
install-torch-cpu = $(uv) --torch-backend cpu $(TORCH_PIN) $(failed)
install-torch-gpu = $(uv) --torch-backend auto $(TORCH_PIN) $(failed)
check-python = "$(PYTHON)" -E -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "error: Python 3.11 or newer is needed, $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | tail -n 1); try PYTHON=python3.11" >&2; exit 1; }
