"""The databases that the ledger's conformance suite runs on, as fixtures (a module names this one in pytest_plugins).

SQLite and PostgreSQL, always. The PostgreSQL server comes from a wheel, one for each pytest worker that needs it;
AKOOL_TEST_POSTGRES_DSN may name a database to use instead, as its superuser: schemas are made in it and dropped.
Migrating takes longer than most tests: a new ledger is a copy of a SQLite file, or one schema that is emptied again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import JobLedger
from akool_dagster.ledger.database import parse_ledger_url
from akool_dagster.ledger.schema import ledger as ledger_table
from akool_dagster.ledger.schema import metadata
from tests.clock import FakeClock
from tests.postgres_server import postgres_server

BACKENDS = ["sqlite", "postgresql"]
MEMORY = Path("/dev/shm")
"""A folder in memory, on Linux: the ledger waits for the disk at every commit, which takes longer than all else."""


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """Give the URL of a PostgreSQL database."""
    given = os.environ.get("AKOOL_TEST_POSTGRES_DSN")
    if given:
        yield given
    else:
        with postgres_server() as url:
            yield url


@pytest.fixture(scope="session")
def ledger_schema(postgres_dsn: str) -> Iterator[str]:
    """Give the URL of a schema in PostgreSQL that has a ledger."""
    with _schema(postgres_dsn) as url:
        JobLedger.create(url).close()
        yield url


@pytest.fixture
def new_schema(postgres_dsn: str) -> Iterator[Callable[[], str]]:
    """Give a function that returns the URL of a new, empty schema in PostgreSQL."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_schema(postgres_dsn))


@pytest.fixture
def sqlite_folder() -> Iterator[Path]:
    """Give an empty folder for SQLite files."""
    with tempfile.TemporaryDirectory(prefix="akool-ledger-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture(params=BACKENDS)
def new_database(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Give a function that returns the URL of a new, empty database."""
    if request.param == "sqlite":
        folder: Path = request.getfixturevalue("sqlite_folder")
        return lambda: f"sqlite:///{folder / uuid.uuid4().hex}.sqlite"
    new_schema: Callable[[], str] = request.getfixturevalue("new_schema")
    return new_schema


@contextmanager
def _schema(dsn: str) -> Iterator[str]:
    """Make an empty schema, give the URL that works in it, and drop it."""
    name = f"ledger_{uuid.uuid4().hex}"
    url = parse_ledger_url(dsn)
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    try:
        yield url.update_query_dict({"options": f"-csearch_path={name}"}).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(sa.schema.DropSchema(name, cascade=True))


@pytest.fixture
def ledger_url(new_database: Callable[[], str], request: pytest.FixtureRequest) -> Iterator[str]:
    """Give the URL of a new ledger that nobody has used. Its schema must stay as it is."""
    url = new_database()
    if url.startswith("sqlite:"):
        shutil.copyfile(request.getfixturevalue("ledger_file"), url.removeprefix("sqlite:///"))
        yield url
    else:
        schema: str = request.getfixturevalue("ledger_schema")
        yield schema
        empty_ledger(schema)


def empty_ledger(url: str) -> None:
    """Make a ledger in PostgreSQL a new one."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(f"TRUNCATE {', '.join(metadata.tables)}"))
        connection.execute(sa.insert(ledger_table).values(id=1, ledger_id=str(uuid.uuid4()), version=0, created_at=0))


@pytest.fixture
def ledger(ledger_url: str, clock: FakeClock) -> Iterator[JobLedger]:
    """Give a new ledger whose time is ``clock``."""
    with JobLedger.open(ledger_url, clock=clock) as opened:
        yield opened


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads for what is to wait while something else goes on."""
    with ThreadPoolExecutor(4) as pool:
        yield pool
