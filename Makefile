# `make` alone lists the commands. Python is taken from PYTHON, e.g. `make test PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NEWEST := .venv-newest
comma := ,
# What other versions of Python, JAX, Flax and Optax may break: the core, the frameworks, a training step, checkpoints.
NEWEST_TESTS ?= tests/test_core_layers.py tests/test_backends.py tests/test_predict.py tests/test_fusion.py \
  tests/test_weights.py tests/test_train_optimizers.py tests/test_train_batchnorm.py tests/test_train_devices.py \
  tests/test_validate_evaluate.py

export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
# Small programs too: a process compiles dozens of them, and the tests start many processes.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export TF_CPP_MIN_LOG_LEVEL ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-newest parity bench tables wheel lint format clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## train on real digits, then validate with every framework and pipeline
	$(BIN)/python -m jeffnet.demo

test: $(READY)  ## the test suite that CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal -q tests

# Its own compilation cache: programs compiled by another jaxlib are of no use.
test-newest: $(NEWEST)/.ready  ## the framework tests on the newest Python and JAX found
	JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax-newest $(NEWEST)/bin/python -m pytest -n 2 --dist worksteal -q $(wildcard $(NEWEST_TESTS))

parity: $(READY)  ## every variant against its reference; writes results/parity.csv
	$(BIN)/python -m benchmarks.parity --out results/parity.csv

bench: $(READY)  ## the benchmarks side by side with the peers; writes results/bench-*.csv
	@found=; missed=; for file in benchmarks/bench_*.py; do \
	  [ -e "$$file" ] || continue; found=yes; echo "== $$file"; \
	  $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)" || missed="$$missed $$file"; done; \
	[ -n "$$found" ] || { echo 'make bench: there is no benchmarks/bench_*.py yet' >&2; exit 2; }; \
	[ -z "$$missed" ] || { echo "make bench: bars missed or failed:$$missed" >&2; exit 1; }

tables: $(READY)  ## the tables of the README and docs, from results/*.csv
	$(BIN)/python -m tools.tables

wheel: $(READY)  ## the wheel, tried in clean environments outside the checkout, with every extra
	$(BIN)/python -m tools.check_wheel

lint: $(READY)  ## style, format, types and Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright -p pyproject.toml
	$(BIN)/hadolint docker/*.Dockerfile

format: $(READY)  ## rewrite the files in the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## remove environments, caches and outputs; results/ stays
	rm -rf $(VENV) $(NEWEST) .cache output build dist .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# install(environment, what): with uv where it is on the PATH, else with a uv put into the environment (minutes
# faster than pip for these sizes); plain pip where uv cannot be had or does not reach the package index.
define install
{ uv=$$(command -v uv) || { $(1)/bin/python -m pip install -q uv && uv=$(1)/bin/uv; }; } \
  && "$$uv" pip install -q --compile-bytecode --python $(1)/bin/python $(2) \
  || { echo 'uv could not do it; trying pip'; $(1)/bin/python -m pip install -q $(2); }
endef

$(READY): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo 'make: there is no $(PYTHON); set PYTHON=/path/to/python3.11' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "make: requirements.txt is for Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) -V 2>&1); set PYTHON=" >&2; \
	    exit 2; }
	@echo 'setting up $(VENV)'
	@rm -f $@
	@$(PYTHON) -m venv $(VENV)
	@$(call install,$(VENV),-r requirements.txt)
	@$(call install,$(VENV),--no-deps -e .)
	@touch $@

# Not from requirements.txt: the point is what the package index offers today.
$(NEWEST)/.ready: pyproject.toml
	@set -e; python=; \
	for version in 3.13 3.12; do \
	  for candidate in python$$version $$(ls -d "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version*/bin/python 2>/dev/null); do \
	    if "$$candidate" -c 'import venv' 2>/dev/null; then python=$$candidate; break 2; fi; \
	  done; \
	done; \
	[ -n "$$python" ] || { echo 'make test-newest: found neither python3.13 nor python3.12' >&2; exit 2; }; \
	echo "setting up $(NEWEST) with $$("$$python" -V)"; \
	rm -rf $(NEWEST); "$$python" -m venv $(NEWEST)
	@$(call install,$(NEWEST),-e '.[torch$(comma)objax$(comma)dev]')
	@$(NEWEST)/bin/python -c 'import flax, jax, platform; print("Python", platform.python_version(), "jax", jax.__version__, "flax", flax.__version__)'
	@touch $@
