# Every target fills its own .venv: with uv when it is there, with venv and pip when not. No root.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= python3
PORT ?= 3000

KILLS ?= 200
SEED ?=

.PHONY: demo dev test chaos lint format bench clean

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv --quiet --python "$(PYTHON)" $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $(STAMP)

demo: $(STAMP)  ## the main job, end to end, on the emulator
	@$(BIN)/python -m example_repo.demo

dev: $(STAMP)  ## the same, with the web UI left running
	@$(BIN)/python -m example_repo.demo --ui --port $(PORT)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto

chaos: $(STAMP)  ## a real deployment, killed 200 times under faults: half an hour to an hour
	@$(BIN)/python -m tests.e2e.chaos --kills $(KILLS) $(if $(SEED),--seed $(SEED))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
