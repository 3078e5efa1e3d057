# Everything runs in .venv, which the first command makes; only Python 3.11 or newer is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: quickstart test test-all test-slurm check format bench lock clean
.DELETE_ON_ERROR:

quickstart: $(READY)  ## the paper's tables on real images, in about a minute after installing
	$(BIN)/usweep run configs/quickstart.yaml

test: $(READY)  ## the default test suite, in two processes
	$(BIN)/pytest -n 2 --dist loadgroup --no-loadscope-reorder

test-all: $(READY)  ## also the slow ones, and those on SLURM
	$(BIN)/pytest -m ""

test-slurm: $(READY)  ## on a real SLURM of three nodes; as root, with Debian's packages
	$(BIN)/pytest -m "slurm and not slow" -rP tests/slurm

check: $(READY)  ## formatting, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY)  ## the figures of docs/performance.md
	$(BIN)/python scripts/bench_training.py
	$(BIN)/python scripts/bench_sweep.py
	$(BIN)/python scripts/bench_quickstart.py
	$(BIN)/python scripts/bench_page.py
	$(BIN)/python scripts/bench_tracking.py

lock: $(READY)  ## newest versions that fit pyproject.toml, with hashes
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes \
		--no-emit-index-url --no-header --quiet --upgrade --output-file requirements.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) scripts/setup_venv.py $(VENV)
	touch $(READY)

clean:
	rm -rf $(VENV)
