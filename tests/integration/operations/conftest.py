from __future__ import annotations

import itertools
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from akool_dagster import JobLedger
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.in_memory import folder_in_memory
from tests.integration.operations.helpers import A, B, C, D, live


class StillClock(FakeClock):
    """Stands still, too, while the thread that renews a lease waits for the lease's end."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(60)


@pytest.fixture
def clock() -> FakeClock:
    return StillClock()


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture
def new_ledger(tmp_path: Path, clock: FakeClock, ledger_file: Path) -> Iterator[Callable[[], JobLedger]]:
    """Give a function that makes a new ledger, whose time is ``clock``."""
    numbers = itertools.count(1)

    def new() -> JobLedger:
        file = tmp_path / f"{next(numbers)}.sqlite"
        shutil.copyfile(ledger_file, file)
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("UPDATE akool_ledger SET ledger_id = ?", [str(uuid.uuid4())])
        return stack.enter_context(JobLedger.open(f"sqlite:///{file}", clock=clock))

    with ExitStack() as stack:
        yield new


@pytest.fixture
def ledger(new_ledger: Callable[[], JobLedger]) -> JobLedger:
    return new_ledger()


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "storage"))


@pytest.fixture
def landed(ledger: JobLedger, root: StorageRoot) -> JobLedger:
    """A ledger whose jobs have landed: A's video is stored, B failed, C's video is pending, D is being processed."""
    return live(ledger, root, stored=[A], failed=[B], waiting=[C], processing=[D], campaign="spring")
