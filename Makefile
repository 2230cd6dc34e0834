# Every target fills its own .venv: with uv when it is there, with venv and pip when not. No root.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs
SQLALCHEMY20 := $(abspath $(VENV))/sqlalchemy-2.0
SQLALCHEMY20_STAMP := $(SQLALCHEMY20)/.installed
SQLALCHEMY20_TESTS := $(filter-out %_properties.py,$(wildcard tests/*/ledger/test_*.py))
SEARCHES := tests/integration/simulation/test_settling.py tests/integration/operations/test_adopt_properties.py \
  tests/integration/ledger/test_properties.py tests/integration/tables/test_landing_in_files.py
PYTHON ?= python3
PORT ?= 3000

KILLS ?= 200
SEED ?=
LEDGER ?= sqlite

.PHONY: demo dev test test-rest test-all nightly chaos lint audit format bench docs clean

$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv --quiet --python "$(PYTHON)" $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -e '.[dev]'; \
	else \
	  test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'; \
	fi
	@touch $(STAMP)

# The newest of the oldest series that is supported, beside the newest of all in the .venv.
$(SQLALCHEMY20_STAMP): $(STAMP)
	@rm -rf $(SQLALCHEMY20)
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python --no-deps --target $(SQLALCHEMY20) 'sqlalchemy>=2.0.36,<2.1'; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(SQLALCHEMY20) \
	    'sqlalchemy>=2.0.36,<2.1'; \
	fi
	@touch $(SQLALCHEMY20_STAMP)

demo: $(STAMP)  ## the main job, end to end, on the emulator
	@$(BIN)/python -m example_repo.demo

dev: $(STAMP)  ## the same, with the web UI left running
	@$(BIN)/python -m example_repo.demo --ui --port $(PORT)

test: $(STAMP)  ## unit and integration tests
	$(BIN)/python -m pytest -n auto tests/unit tests/integration

test-rest: $(STAMP) $(SQLALCHEMY20_STAMP)  ## a real daemon and web server, and the ledger's tests on SQLAlchemy 2.0
	PYTHONPATH="$(SQLALCHEMY20)$${PYTHONPATH:+:$$PYTHONPATH}" AKOOL_TEST_SQLALCHEMY=2.0 \
	  $(BIN)/python -m pytest -n auto $(SQLALCHEMY20_TESTS)
	$(BIN)/python -m pytest -n auto tests/e2e

test-all: test test-rest  ## everything that CI runs

nightly: $(STAMP)  ## the searches of `make test`, with many times as many examples: half an hour and more
	AKOOL_TESTS=nightly $(BIN)/python -m pytest -n auto $(SEARCHES)

chaos: $(STAMP)  ## a real deployment, killed 200 times under faults: a quarter of an hour and more; LEDGER=postgresql
	@$(BIN)/python -m tests.e2e.chaos --ledger $(LEDGER) --kills $(KILLS) $(if $(SEED),--seed $(SEED))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/python -m tools.audit

audit: $(STAMP)  ## what is installed: does it fit together, is a vulnerability known; says so when it cannot ask
	@$(BIN)/python -m tools.audit

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	@if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(BIN)/python -e '.[docs]'; \
	else $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'; fi
	@touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## the documentation site, in site/; a broken link or a page that is not listed fails
	@$(BIN)/python -m tools.reference
	@$(BIN)/python -m tools.check_site
	@$(BIN)/zensical build --clean --strict
	@$(BIN)/python -m tools.check_site --built

bench: $(STAMP)
	@$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) site docs/reference .cache .pytest_cache .mypy_cache .ruff_cache
