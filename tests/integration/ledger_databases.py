"""The databases that the ledger's conformance suite runs on, as fixtures (a module names this one in pytest_plugins).

SQLite always; PostgreSQL too when AKOOL_TEST_POSTGRES_DSN names a database in which schemas may be made.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import JobLedger
from tests.clock import FakeClock

POSTGRES_DSN = os.environ.get("AKOOL_TEST_POSTGRES_DSN", "")
BACKENDS = ["sqlite", "postgresql"] if POSTGRES_DSN else ["sqlite"]


@pytest.fixture(params=BACKENDS)
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Give a function that returns the URL of a new, empty database."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield lambda: f"sqlite:///{tmp_path / uuid.uuid4().hex}.sqlite"
        else:
            yield lambda: stack.enter_context(_postgres_schema())


@contextmanager
def _postgres_schema() -> Iterator[str]:
    name = f"ledger_{uuid.uuid4().hex}"
    url = sa.make_url(POSTGRES_DSN).set(drivername="postgresql+psycopg2")
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    try:
        yield url.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))


@pytest.fixture
def ledger_url(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty database."""
    return new_database()


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that stands still until it is told to move."""
    return FakeClock()


@pytest.fixture(scope="session")
def sqlite_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a new SQLite ledger, to be copied: migrating takes longer than most tests."""
    file = tmp_path_factory.mktemp("ledger") / "new.sqlite"
    JobLedger.create(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def ledger(ledger_url: str, clock: FakeClock, sqlite_ledger: Path) -> Iterator[JobLedger]:
    """Give a new ledger whose time is ``clock``."""
    if ledger_url.startswith("sqlite:"):
        shutil.copyfile(sqlite_ledger, ledger_url.removeprefix("sqlite:///"))
    with JobLedger.create(ledger_url, clock=clock) as created:
        yield created
