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


REFUSED = {
    "sqlite:///ledger.sqlite": r"is relative\. Write sqlite:////.*/ledger\.sqlite$",
    "sqlite:///./a/../b.sqlite": r"is relative\. Write sqlite:////.*/b\.sqlite$",
    "data/ledger.sqlite": r"not a SQLAlchemy URL\. .* sqlite:////.*/data/ledger\.sqlite$",
    "": r"not a SQLAlchemy URL\. .* sqlite:////.*$",
    "sqlite://": "in-memory",
    "sqlite:///": "in-memory",
    "sqlite:///:memory:": "in-memory",
    "mysql://u:s3cret@h/d": "SQLite or PostgreSQL, not in 'mysql'",
    "oracle+oracledb://u:s3cret@h/d": "SQLite or PostgreSQL, not in 'oracle'",
    "sqlite+foo:////data/l.sqlite?password=s3cret": r"no driver such as 'foo'\. Write sqlite:////data/l\.sqlite$",
    "sqlite:////data/a\0b": "has a NUL character",
    "sqlite:////data/a%00b": "has a NUL character",
    "postgresql://me@h/d\0": "has a NUL character",
    "://x": "not a SQLAlchemy URL",
    "postgresql://me:s3cret@h:s3cret/d": "not a SQLAlchemy URL",
    "postgresql://h:s3cret/d": "not a SQLAlchemy URL",
    "me:s3cret@h:5432/d": "postgresql://user:password@host",
    "//me:s3cret@h/d": "postgresql://user:password@host",
}


@pytest.mark.parametrize(("written", "told"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_url_that_no_ledger_can_have_is_refused_with_the_one_to_write(written: str, told: str) -> None:
    with pytest.raises(LedgerUrlError, match=told) as caught:
        parse_ledger_url(written)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__context__ is None


def test_the_advised_url_is_that_of_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LedgerUrlError) as caught:
        parse_ledger_url("sqlite:///ledger.sqlite")
    advised = str(caught.value).rpartition("Write ")[2]
    assert parse_ledger_url(advised).database == str(tmp_path / "ledger.sqlite")


@pytest.mark.parametrize("option", [f"timeout={SECRET}", f"check_same_thread={SECRET}"])
def test_an_option_with_a_value_that_cannot_be_is_refused_without_repeating_it(tmp_path: Path, option: str) -> None:
    with pytest.raises(LedgerUrlError, match=r"Write sqlite:////.*/x\.sqlite$") as caught:
        JobLedger.create(f"sqlite:///{tmp_path / 'new' / 'x.sqlite'}?{option}")
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert not (tmp_path / "new").exists()


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


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
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
