# Everything a person types.  Each target installs what it needs and is missing; a second run is
# quick.  PYTHON=/path/to/python3 chooses the interpreter of .venv (3.11 or later).

SHELL := /bin/bash
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
C_FILES = $(shell git ls-files 'src/*.c' 'src/*.h' 'bpf/*.c' 'bpf/*.h' 'tests/*.c' 'tests/*.h')

.DEFAULT_GOAL := help
.PHONY: help build demo test check format bench clean

help: ## this list
	@echo "hybridnet: asyncio networking on AF_XDP, with the kernel for the rest"
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## .venv with the package and its 'hybridnet' command
	@tools/bootstrap build

demo: ## two hosts, real packets: hybridnet beside kernel sockets (under a minute)
	@tools/bootstrap demo
	@$(BIN)/hybridnet demo

check: ## lint, types, format, unit, native and simulated tests (well under a minute)
	@tools/bootstrap check
	@$(MAKE) --no-print-directory lint
	$(PYTEST) $(wildcard tests/unit tests/native tests/sim)

# All of them run, side by side, even when one complains.
.PHONY: lint lint-ruff lint-format lint-mypy lint-pyright lint-c
lint:
	@$(MAKE) --no-print-directory -k -j4 --output-sync=target \
	    lint-ruff lint-format lint-mypy lint-pyright lint-c
lint-ruff:
	$(BIN)/ruff check --quiet .
lint-format:
	$(BIN)/ruff format --check .
lint-mypy:
	$(BIN)/mypy
lint-pyright:
	$(BIN)/pyright --pythonpath $(BIN)/python
lint-c:
	@if command -v clang-format >/dev/null; then \
	    echo "clang-format --dry-run --Werror (all C files)"; \
	    clang-format --dry-run --Werror $(C_FILES); \
	else echo "clang-format is not installed: C formatting not checked"; fi

test: ## everything: check, BPF, real kernel peers in namespaces, examples, faults
	@tools/bootstrap test
	@# A complaint about style must not hide whether the software works.
	@status=0; $(MAKE) --no-print-directory lint || status=1; \
	$(PYTEST) tests --ignore=tests/bench || status=1; exit $$status

bench: ## measured side by side with kernel sockets and a bare C loop (ARGS="--quick")
	@tools/bootstrap bench
	$(BIN)/python tests/bench/run.py $(ARGS)

format: ## bring Python and C into the project's format
	@tools/bootstrap check
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .
	clang-format -i $(C_FILES)

clean: ## remove what was built here (installed Debian packages stay)
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .hypothesis .pytest_cache
	find src bpf tests -name __pycache__ -type d -prune -exec rm -rf {} +
	find src bpf tests \( -name '*.so' -o -name '*.o' \) -type f -delete
	rm -f src/hybridnet/_native/_lib.c
