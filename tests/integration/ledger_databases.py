"""The databases that the ledger's conformance suite runs on, as fixtures (a module names this one in pytest_plugins).

SQLite and PostgreSQL, always. The PostgreSQL server comes from a wheel, one for each pytest worker that needs it;
AKOOL_TEST_POSTGRES_DSN may name a database to use instead, as its superuser: schemas are made in it and dropped.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import JobLedger
from akool_dagster.ledger.database import parse_ledger_url
from tests.clock import FakeClock
from tests.postgres_server import postgres_server

BACKENDS = ["sqlite", "postgresql"]


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """Give the URL of a PostgreSQL database."""
    given = os.environ.get("AKOOL_TEST_POSTGRES_DSN")
    if given:
        yield given
    else:
        with postgres_server() as url:
            yield url


@pytest.fixture
def new_schema(postgres_dsn: str) -> Iterator[Callable[[], str]]:
    """Give a function that returns the URL of a new, empty schema in PostgreSQL."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(_schema(postgres_dsn))


@pytest.fixture(params=BACKENDS)
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Give a function that returns the URL of a new, empty database."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / uuid.uuid4().hex}.sqlite"
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
def ledger_url(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty database."""
    return new_database()


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


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Give threads for what is to wait while something else goes on."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def second_ledger(new_database: Callable[[], str], clock: FakeClock) -> Iterator[JobLedger]:
    """Give another ledger, an empty one."""
    with JobLedger.create(new_database(), clock=clock) as ledger:
        yield ledger
