# Two commands do everything on a machine with Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := demo-runs
MARKDOWN := README.md CHANGELOG.md docs tests/slurm tests/chaos

.PHONY: demo test test-lab test-gpu fuzz chaos lint docs docs-serve bench clean slurm-up slurm-down

# Made again when the dependencies change.
$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" CLDCTL_RUNS=$(DEMO) bash benchmarks/demo.sh

# What a newcomer runs: seven to nine minutes on two cores, no Slurm.
test: $(VENV)/.installed
	$(BIN)/pytest -n 2 -m "not slurm and not slow and not gpu"

# The rest: the Slurm laboratory (tests/slurm/README.md), which mostly waits, and whatever is slow.
test-lab: $(VENV)/.installed
	$(BIN)/pytest -n 4 -m "(slurm or slow) and not gpu"

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
	$(BIN)/mdformat --check --wrap 100 --compact-tables $(MARKDOWN)

# The site, in build/site. Links that lead nowhere and pages that load from elsewhere are errors.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "build/site/index.html"

docs-serve: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

slurm-up: $(VENV)/.installed
	$(BIN)/python -m tests.slurm up

slurm-down: $(VENV)/.installed
	$(BIN)/python -m tests.slurm down

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
