"""Fixtures for everybody."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import settings

from akool_dagster import JobLedger
from akool_dagster.emulator import AkoolEmulator
from akool_dagster.http import bounds
from tests.clock import FakeClock
from tests.deployment import QUIET, Deployment
from tests.thoroughness import NIGHTLY, thorough

# A busy machine must not fail a property; how long one takes is for the benchmarks.
# A pull request sees the same examples at every run; the nightly run looks for new ones.
settings.register_profile("akool", deadline=None, derandomize=not NIGHTLY, max_examples=thorough(100, 1000))
settings.load_profile("akool")

LONG = frozenset({"e2e", "test_settling.py"})
"""Folders and modules of tests that take the longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, in whatever order the rest comes: nobody should wait for it alone in the end."""
    items.sort(key=lambda item: not LONG.intersection(item.path.parts))


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that stands still until it is told to move."""
    return FakeClock()


@pytest.fixture
def system_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let Python's temporary folder be one of the test's own, which must be empty again in the end."""
    folder = tmp_path / "system-temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let threads that wait for a server look at their bounds every few milliseconds."""
    monkeypatch.setattr(bounds, "SLICE_SECONDS", 0.01)


@pytest.fixture
def emulator() -> Iterator[AkoolEmulator]:
    with AkoolEmulator() as emulator:
        yield emulator


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """Give a Dagster instance in memory: on disk each run has a database of its own made, which takes long."""
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        yield instance


@pytest.fixture
def deployment(tmp_path: Path, emulator: AkoolEmulator, instance: dg.DagsterInstance) -> Deployment:
    return Deployment(tmp_path, emulator, instance)


@pytest.fixture(scope="session")
def ledger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a new SQLite ledger, to be copied: migrating takes longer than most tests."""
    file = tmp_path_factory.mktemp("ledger") / "new.sqlite"
    JobLedger.create(f"sqlite:///{file}").close()
    return file
