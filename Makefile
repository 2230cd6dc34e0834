# Every target fills its own .venv with uv: the one on the PATH, or one that pip installs into the .venv. No root.
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
WEB := $(VENV)/.web
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs
SQLALCHEMY20 := $(abspath $(VENV))/sqlalchemy-2.0
SQLALCHEMY20_STAMP := $(SQLALCHEMY20)/.installed
SQLALCHEMY20_TESTS := $(filter-out %_properties.py,$(wildcard tests/*/ledger/test_*.py))
LOWEST := $(VENV)/lowest
LOWEST_STAMP := $(LOWEST)/.installed
LOWEST_TESTS := tests/unit $(wildcard $(addprefix tests/integration/,api cli http ledger operations polling storage tables videos))
SEARCHES := tests/unit tests/e2e/simulation/test_settling.py tests/integration/operations/test_adopt_properties.py \
  tests/integration/ledger/test_properties.py tests/integration/tables/test_landing_in_files.py
PYTHON ?= python3
PORT ?= 3000

KILLS ?= 200
SEED ?=
LEDGER ?= sqlite

COMMA := ,
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
UV_INSTALL := pip install --quiet --python $(BIN)/python
# $(call install,PACKAGES): with uv, or with pip where uv cannot be had or cannot reach pip's index.
install = if command -v uv >/dev/null 2>&1; then uv $(UV_INSTALL) $(1); else \
  { test -x $(BIN)/uv || $(PIP_INSTALL) uv; } && $(BIN)/uv $(UV_INSTALL) $(1) || $(PIP_INSTALL) $(1); fi
# For what pip cannot do.
UV = $$(command -v uv || echo $(BIN)/uv)

.PHONY: demo dev test test-rest test-sqlalchemy20 test-lowest test-packaging test-e2e test-all nightly chaos \
  lint lint-workflows audit format bench docs clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "akool-dagster needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@if command -v uv >/dev/null 2>&1; then uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
	  else $(PYTHON) -m venv $(VENV); fi

$(DEMO): pyproject.toml | $(BIN)/python
	@$(call install,-e '.[demo]')
	@touch $@

$(WEB): $(DEMO)
	@$(call install,-e '.[demo]' dagster-webserver)
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	@$(call install,-e '.[dev]')
	@touch $(DEMO) $(WEB) $@

# The newest of the oldest series that is supported, beside the newest of all in the .venv.
$(SQLALCHEMY20_STAMP): $(STAMP)
	@rm -rf $(SQLALCHEMY20)
	@$(call install,--no-deps --target $(SQLALCHEMY20) 'sqlalchemy>=2.0.36$(COMMA)<2.1')
	@touch $@

# The oldest version of each dependency that pyproject.toml allows, with the newest versions of what the tests need.
$(LOWEST_STAMP): $(STAMP)
	@rm -rf $(LOWEST)
	@$(UV) venv --quiet --python $(BIN)/python $(LOWEST)
	@$(UV) pip compile --quiet --python $(LOWEST)/bin/python --only-binary :all: --resolution lowest-direct \
	  --extra emulator --extra postgres --extra s3-profile --output-file $(LOWEST)/versions.txt pyproject.toml
	@$(UV) pip install --quiet --python $(LOWEST)/bin/python --constraints $(LOWEST)/versions.txt -e '.[test]'
	@touch $@

demo: $(DEMO)  ## the main job, end to end, on the emulator
	@$(BIN)/python -m example_repo.demo

dev: $(WEB)  ## the same, with the web UI left running
	@$(BIN)/python -m example_repo.demo --ui --port $(PORT)

test: $(STAMP)  ## unit and integration tests
	$(BIN)/python -m pytest -n auto tests/unit tests/integration

test-rest: test-sqlalchemy20 test-lowest test-packaging test-e2e docs  ## all that is slower, or needs an environment

test-sqlalchemy20: $(SQLALCHEMY20_STAMP)  ## the ledger on the oldest series of SQLAlchemy that is supported
	PYTHONPATH="$(SQLALCHEMY20)$${PYTHONPATH:+:$$PYTHONPATH}" AKOOL_TEST_SQLALCHEMY=2.0 \
	  $(BIN)/python -m pytest -n auto $(SQLALCHEMY20_TESTS)

test-lowest: $(LOWEST_STAMP)  ## on the lowest versions of the dependencies
	$(LOWEST)/bin/python -m pytest -n auto $(LOWEST_TESTS)

test-packaging: $(STAMP)  ## sdist and wheel: built, compared, installed alone, type-checked
	$(BIN)/python -m pytest tests/packaging

test-e2e: $(STAMP)  ## a real daemon and web server
	$(BIN)/python -m pytest -n auto tests/e2e

test-all: test test-rest  ## everything that CI runs

nightly: $(STAMP)  ## the searches of `make test`, with many times as many examples: half an hour and more
	AKOOL_TESTS=nightly $(BIN)/python -m pytest -n auto $(SEARCHES)

chaos: $(STAMP)  ## a real deployment, killed 200 times under faults: a quarter of an hour and more; LEDGER=postgresql
	@$(BIN)/python -m tests.e2e.chaos --ledger $(LEDGER) --kills $(KILLS) $(if $(SEED),--seed $(SEED))

lint: $(STAMP) lint-workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/python -m tools.audit

lint-workflows: $(STAMP)  ## GitHub's workflows and forms
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms \
	  $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/zizmor --quiet --offline --persona pedantic .github

audit: $(STAMP)  ## what is installed: does it fit together, is a vulnerability known; says so when it cannot ask
	@$(BIN)/python -m tools.audit

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	@$(call install,-e '.[docs]')
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
