"""The crash test must read, save and strike the ledger's database as it says, in SQLite and in PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg2
import pytest

from tests.e2e.chaos import databases
from tests.e2e.chaos.databases import PASSWORD, LedgerDatabase, PostgresLedger, SqliteLedger, postgres_ledger

RANDOM = random.Random(7)
IDS = "SELECT id FROM ids ORDER BY id"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresLedger]:
    with postgres_ledger(tmp_path_factory.mktemp("backup") / "backup.pgdump") as ledger:
        yield ledger


@pytest.fixture
def postgres(server: PostgresLedger) -> PostgresLedger:
    server.execute("DROP TABLE IF EXISTS ids")
    fill(server)
    return server


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerDatabase:
    if request.param == "postgresql":
        postgres: PostgresLedger = request.getfixturevalue("postgres")
        return postgres
    sqlite = SqliteLedger(tmp_path / "ledger.sqlite")
    fill(sqlite)
    return sqlite


def fill(ledger: LedgerDatabase) -> None:
    ledger.execute("CREATE TABLE ids (id INTEGER PRIMARY KEY, note TEXT)")
    ledger.execute("INSERT INTO ids VALUES (1, 'one'), (2, 'two')")


def test_what_was_saved_comes_back_whole_and_nothing_else(ledger: LedgerDatabase) -> None:
    ledger.back_up()
    ledger.execute("INSERT INTO ids VALUES (3, 'three')")
    ledger.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    assert list(ledger.tables()) == ["ids", "later"]
    assert list(ledger.rows(IDS)) == [{"id": 1}, {"id": 2}, {"id": 3}]
    ledger.put_back()
    assert list(ledger.tables()) == ["ids"]
    assert list(ledger.rows(IDS)) == [{"id": 1}, {"id": 2}]


def test_a_sound_database_shows_no_damage(ledger: LedgerDatabase) -> None:
    assert ledger.damage() is None


def test_a_damaged_sqlite_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    ledger = SqliteLedger(file)
    fill(ledger)
    ledger.execute("CREATE INDEX by_note ON ids (note)")
    content = file.read_bytes()
    file.write_bytes(content[:-4] + b"tw0" + content[-1:])  # the last page is the index's
    assert ledger.damage() is not None


def test_an_index_of_postgresql_that_misses_a_row_is_found(postgres: PostgresLedger) -> None:
    postgres.execute("UPDATE pg_index SET indisready = false WHERE indexrelid = 'ids_pkey'::regclass")
    postgres.execute("INSERT INTO ids VALUES (3, 'three')")
    postgres.execute("UPDATE pg_index SET indisready = true WHERE indexrelid = 'ids_pkey'::regclass")
    assert postgres.damage() == "the primary key of ids leads to 2 rows of 3"


def test_the_server_asks_the_deployment_for_its_password(postgres: PostgresLedger) -> None:
    url = postgres.environment["AKOOL_LEDGER_URL"]
    with closing(psycopg2.connect(url)):
        assert PASSWORD in url
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(url.replace(PASSWORD, "another"))


@pytest.mark.parametrize("strike", [PostgresLedger.end_a_connection, PostgresLedger.crash])
def test_a_strike_ends_a_transaction_and_loses_nothing_that_was_answered(
    postgres: PostgresLedger, strike: Callable[[PostgresLedger, random.Random], bool]
) -> None:
    with closing(psycopg2.connect(postgres.environment["AKOOL_LEDGER_URL"])) as client, client.cursor() as cursor:
        cursor.execute("CREATE TABLE answered (id INTEGER PRIMARY KEY)")
        client.commit()
        cursor.execute("INSERT INTO answered VALUES (1)")
        assert strike(postgres, RANDOM)
        with pytest.raises(psycopg2.Error):
            cursor.execute("SELECT 1")
    assert list(postgres.rows("SELECT id FROM answered")) == []
    postgres.execute("DROP TABLE answered")


def test_a_strike_hits_nobody_when_nobody_is_there(postgres: PostgresLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "POUNCE_SECONDS", 0.01)
    assert not postgres.end_a_connection(RANDOM)
    assert not postgres.crash(RANDOM)
