# Two commands do everything on a machine with Python 3.11 or newer and make: `make demo` and `make test`.
# The first of these that is new enough is used, unless somebody names another: make PYTHON=/path/to/python3.12 demo
PYTHON ?= python3 python3.11 python3.12 python3.13 python3.14
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo-runs
MARKDOWN := README.md CHANGELOG.md CONTRIBUTING.md docs tests/features.md tests/slurm tests/chaos
# Type checkers find packages on a path, not those of an import hook, which is what pip makes otherwise.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable

.PHONY: demo test test-lab test-all test-gpu fuzz chaos lint docs docs-serve bench samplers-docs clean slurm-up slurm-down

# Its pip, and not its Python, says that an environment is whole.
$(BIN)/pip:
	@for python in $(PYTHON); do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec "$$python" -m venv $(VENV); \
		fi; \
	done; \
	echo "error: cldctl needs Python 3.11 or newer; tried: $(PYTHON). Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; \
	exit 1

# What using cldctl needs. Made again when the dependencies change.
$(VENV)/.product: pyproject.toml setup.py | $(BIN)/pip
	$(INSTALL) .
	touch $@

# What its tests need, too.
$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/pip
	$(INSTALL) '.[dev]'
	touch $(VENV)/.product $@

demo: $(VENV)/.product
	@PATH="$(CURDIR)/$(BIN):$$PATH" CLDCTL_RUNS=$(DEMO) bash benchmarks/demo.sh

# What a newcomer runs, without Slurm.
test: $(VENV)/.installed
	$(BIN)/pytest -n 2 --dist loadfile -m "not slurm and not slow and not gpu and not by_hand"

# The Slurm laboratory (tests/slurm/README.md), which mostly waits, and whatever is slow.
test-lab: $(VENV)/.installed
	$(BIN)/pytest -n 3 --maxschedchunk 1 -m "(slurm or slow) and not gpu and not by_hand"

# Before an issue is resolved and before a release: those two, and browser, wheel, site, notebook, fuzz, chaos and what takes minutes.
test-all: export CLDCTL_REQUIRE_SLURM := 1
test-all: export CLDCTL_REQUIRE_CHROMIUM := 1
test-all: test test-lab docs
	$(BIN)/pytest -n 2 -m "by_hand and not gpu"

# Where there is a GPU (docs/gpu.md); elsewhere, all of it is skipped.
test-gpu: $(VENV)/.installed
	$(BIN)/pytest -m gpu -rs tests/gpu

# Damaged input and faults for as long as one likes, by hand (docs/reliability.md): make fuzz SECONDS=3600 SEED=7
SECONDS ?= 600
EVENTS ?= 200
SEED ?= 1
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

chaos: $(VENV)/.installed
	$(BIN)/python -m tests.chaos --events $(EVENTS) --seed $(SEED)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python tests/house.py
	$(BIN)/mdformat --check --wrap 100 --compact-tables $(MARKDOWN)

# The site, in build/site. Links that lead nowhere and pages that load from elsewhere are errors.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "build/site/index.html"

docs-serve: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

# The tables of docs/results.md: make samplers-docs RUNS="runs/mixed runs/plain"
samplers-docs: $(VENV)/.installed
	$(BIN)/python -m benchmarks.samplers_docs $(RUNS)

slurm-up: $(VENV)/.installed
	$(BIN)/python -m tests.slurm up

slurm-down: $(VENV)/.installed
	$(BIN)/python -m tests.slurm down

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
