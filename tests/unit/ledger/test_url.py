"""How a ledger's URL may be written, and that what is secret in it is never shown."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import JobLedger, LedgerUnavailableError, LedgerUrlError
from akool_dagster.ledger.database import Database, parse_ledger_url

SECRET = "s3cret"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("written", ["sqlite:///ledger.sqlite", "sqlite:///./ledger.sqlite", "sqlite:///a/../b.sqlite"])
def test_a_relative_path_is_refused_with_the_absolute_url(folder: Path, written: str) -> None:
    relative = written.removeprefix("sqlite:///")
    with pytest.raises(LedgerUrlError, match="is relative") as caught:
        parse_ledger_url(written)
    advised = str(caught.value).rpartition("Write ")[2]
    assert advised == f"sqlite:///{folder / relative}"
    assert parse_ledger_url(advised).database == str(folder / relative)


@pytest.mark.parametrize("written", ["ledger.sqlite", "data/ledger.sqlite", ""])
def test_a_plain_path_is_refused_with_the_url_to_write(folder: Path, written: str) -> None:
    with pytest.raises(LedgerUrlError, match="not a SQLAlchemy URL") as caught:
        parse_ledger_url(written)
    assert str(caught.value).endswith(f" sqlite:///{folder / written}")


@pytest.mark.parametrize("written", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_a_ledger_in_memory_is_refused(written: str) -> None:
    with pytest.raises(LedgerUrlError, match="in-memory"):
        parse_ledger_url(written)


@pytest.mark.parametrize("written", ["mysql://u:s3cret@h/d", "duckdb:////data/x", "oracle+oracledb://u:s3cret@h/d"])
def test_another_kind_of_database_is_refused_by_name(written: str) -> None:
    with pytest.raises(LedgerUrlError, match=r"SQLite or PostgreSQL, not in '(mysql|duckdb|oracle)'") as caught:
        parse_ledger_url(written)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("driver", ["foo", "aiosqlite", "pysqlcipher"])
def test_another_driver_of_sqlite_is_refused_with_the_url_to_write(driver: str) -> None:
    with pytest.raises(LedgerUrlError, match=rf"'{driver}'\. Write sqlite:////data/ledger\.sqlite$"):
        parse_ledger_url(f"sqlite+{driver}:////data/ledger.sqlite?password={SECRET}")
    assert parse_ledger_url("sqlite+pysqlite:////data/l.sqlite").database == "/data/l.sqlite"


@pytest.mark.parametrize("option", [f"timeout={SECRET}", f"check_same_thread={SECRET}"])
def test_an_option_with_a_value_that_cannot_be_is_refused_without_repeating_it(tmp_path: Path, option: str) -> None:
    with pytest.raises(LedgerUrlError, match=r"Write sqlite:////.*/x\.sqlite$") as caught:
        JobLedger.create(f"sqlite:///{tmp_path / 'new' / 'x.sqlite'}?{option}")
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("written", ["sqlite:////data/a\0b", "sqlite:////data/a%00b", "postgresql://me@h/d\0"])
def test_a_nul_in_a_url_is_refused(written: str) -> None:
    with pytest.raises(LedgerUrlError, match="has a NUL character"):
        parse_ledger_url(written)


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"]
)
def test_every_postgresql_url_means_psycopg2(scheme: str) -> None:
    url = parse_ledger_url(f"{scheme}://me:s3cret@db.example:5433/jobs?sslmode=require")
    assert url.drivername == "postgresql+psycopg2"
    assert (url.username, url.password, url.host, url.port, url.database, dict(url.query)) == (
        "me",
        SECRET,
        "db.example",
        5433,
        "jobs",
        {"sslmode": "require"},
    )


@pytest.mark.parametrize(
    "written", ["://x", "postgresql:///[bad", "postgresql://me:s3cret@h:s3cret/d", "postgresql://h:s3cret/d"]
)
def test_a_url_that_cannot_be_read_is_not_repeated(written: str) -> None:
    try:
        parse_ledger_url(written)
    except LedgerUrlError as error:
        assert SECRET not in f"{error!r} {error.__cause__!r}"
        assert error.__context__ is None


@pytest.mark.parametrize("written", ["me:s3cret@h/d", "me:s3cret@h:5432/d", "//me:s3cret@h/d"])
def test_a_url_without_its_scheme_is_not_repeated_as_a_path(written: str) -> None:
    with pytest.raises(LedgerUrlError, match="postgresql://user:password@host") as caught:
        parse_ledger_url(written)
    assert SECRET not in str(caught.value)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let psycopg2 be not installed."""
    monkeypatch.setitem(sys.modules, "psycopg2", None)


@pytest.mark.usefixtures("no_driver")
def test_a_missing_driver_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(LedgerUrlError, match=r"'psycopg2'.*pip install 'akool-dagster\[postgres\]'") as caught:
        JobLedger.open(f"postgresql://me:{SECRET}@db.example/jobs?password={SECRET}")
    assert SECRET not in str(caught.value)


class _OperationalError(Exception):
    """What a driver raises when it cannot connect."""


def _fake_driver(message: str) -> Any:
    driver: Any = ModuleType("psycopg2")

    def connect(*_: object, **__: object) -> None:
        raise _OperationalError(message)

    driver.__version__ = "2.9.9"
    driver.paramstyle = "pyformat"
    driver.connect = connect
    driver.Error = _OperationalError
    driver.OperationalError = _OperationalError
    driver.extensions = driver.extras = ModuleType("psycopg2.extensions")
    return driver


@pytest.mark.parametrize("message", ["could not connect to server\n\tIs it running?", ""])
def test_a_server_that_cannot_be_reached_is_named_without_what_is_secret(
    monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    driver = _fake_driver(message)
    for name in ("psycopg2", "psycopg2.extensions", "psycopg2.extras"):
        monkeypatch.setitem(sys.modules, name, driver)
    database = Database(f"postgresql://me:{SECRET}@db.example/jobs?password={SECRET}&sslpassword={SECRET}")
    assert database.shown == "postgresql+psycopg2://me:***@db.example/jobs"
    with pytest.raises(LedgerUnavailableError, match=r"db\.example/jobs cannot be used now: ") as caught:
        database.version()
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert SECRET not in repr(database)
    database.close()


def test_the_engine_hides_what_is_written(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.sqlite'}")
    with (
        pytest.raises(sa.exc.IntegrityError) as caught,
        database.write() as connection,
    ):
        connection.execute(sa.text("CREATE TABLE t (x TEXT CHECK (x = 'a'))"))
        connection.execute(sa.text("INSERT INTO t VALUES (:x)"), {"x": SECRET})
    assert SECRET not in str(caught.value)
    database.close()
