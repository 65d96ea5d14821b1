# Each target does all of its own set-up in .venv; `make help` lists them. Needs Python >= 3.10, pip, make and git.

PYTHON ?= python3
# Installed before everything else and held, so that no dependency brings another build. A requirement, wheel or pip options:
#   make demo TORCH=torch==2.9.1        make demo TORCH=./torch-2.13.0+cpu-cp312-cp312-linux_x86_64.whl
TORCH ?= torch==2.13.0
export T2V_TORCH := $(TORCH)
unexport TORCH

# Idle OpenMP threads give their core back: several times faster where cores are few or shared.
export OMP_WAIT_POLICY := PASSIVE

# The prompt reaches the program through the environment, as typed: neither make nor the shell reads a $ or a quote in it.
# From the command line only: shells have a variable of that name for themselves.
ifeq ($(origin PROMPT),command line)
export T2V_PROMPT := $(value PROMPT)
unexport PROMPT
SET_PROMPT := --set "Prompt.text=$$T2V_PROMPT"
endif

PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
HELD := .venv/held.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint evaluate clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'make demo                    a prompt becomes output/*.mp4, by workflows/api/text_to_video.json'
	@echo 'make demo PROMPT="..."       the same with your prompt'
	@echo 'make test                    ruff, then every test'
	@echo 'make lint                    ruff alone'
	@echo 'make evaluate                asks the bundled model for the fixed prompts, reads what it drew (13 minutes)'
	@echo 'make clean                   removes .venv and the caches, never your videos'
	@echo 'PYTHON=... TORCH=...         another interpreter, another PyTorch (now: $(PYTHON), $(TORCH))'

demo: .venv/.headless
	@$(PY) -m headless run workflows/api/text_to_video.json --out output $(SET_PROMPT)

test: lint
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/.test
	@$(PY) -m ruff check --quiet .

evaluate: .venv/.headless
	@$(PY) -m t2v_core.training evaluate --out runs/evaluation

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up. A file .venv/.<name> says that <name> is installed, as of its date. ---

.venv/.headless: .venv/.torch pyproject.toml
	@echo 'Installing the dependencies'
	@$(PIP) install --quiet --constraint $(HELD) '.[headless]'
	@rm -rf build *.egg-info && touch $@

.venv/.test: .venv/.torch pyproject.toml
	@echo 'Installing the dependencies and what the tests compare with'
	@$(PIP) install --quiet --constraint $(HELD) '.[headless,test]'
	@rm -rf build *.egg-info && touch .venv/.headless $@

# Unquoted on purpose: TORCH may hold options. `set -f` keeps a * or [ in it from naming files.
.venv/.torch: .venv/.venv
	@echo "Installing $$T2V_TORCH"
	@set -f; $(PIP) install $$T2V_TORCH
	@$(PIP) list --format=freeze | grep '^torch==' > $(HELD) || { echo "TORCH=$$T2V_TORCH installs no torch" >&2; exit 1; }
	@printf '%s\n' "$$T2V_TORCH" > $@

# A TORCH given by hand that is not the one installed takes its place; without one, what is there stays.
ifneq ($(origin TORCH),file)
ifneq ($(value TORCH),$(shell cat .venv/.torch 2>/dev/null))
.venv/.torch: FORCE
endif
endif

# Debian's python3 may lack ensurepip (package python3-venv): then the pip that is there fills the environment.
.venv/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	{ echo 'Python >= 3.10 is needed: make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv > /dev/null 2>&1 || \
	{ $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python $(PY) --quiet install pip; } || \
	{ echo 'No virtual environment: install your system'\''s python3-venv package and run make again.' >&2; exit 1; }
	@touch $@
