"""Conformance: the schema that the migrations make, and what a database that is no proper ledger gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import AccountLedger, JobLedger, LedgerMissingError, LedgerSchemaError
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.inspection import schema_differences
from akool_dagster.ledger.schema import VERSION_TABLE, metadata
from tests.integration.ledger.helpers import ACCOUNT, execute, track

pytest_plugins = ["tests.integration.ledger_databases"]


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    """Give the URL of an empty database."""
    return new_database()


def description(url: str) -> dict[str, Any]:
    """Return all that a database says of its tables, in a form to compare."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    inspector = sa.inspect(engine)
    return {
        name: {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"], str(column["default"]))
                for column in inspector.get_columns(name)
            ],
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "indexes": {
                index["name"]: (
                    index["column_names"],
                    index["unique"],
                    {option: str(value) for option, value in index.get("dialect_options", {}).items()},
                )
                for index in inspector.get_indexes(name)
            },
            "checks": {check["name"]: check["sqltext"] for check in inspector.get_check_constraints(name)},
        }
        for name in inspector.get_table_names()
        if name != VERSION_TABLE
    }


def contents(url: str) -> dict[str, list[Any]]:
    """Return every row of every table."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        return {
            name: list(connection.execute(sa.text(f'SELECT * FROM "{name}"')))  # noqa: S608
            for name in sa.inspect(connection).get_table_names()
        }


def test_the_migrations_make_what_the_code_describes(ledger_url: str, url: str) -> None:
    metadata.create_all(sa.create_engine(url, poolclass=sa.NullPool))
    migrated = description(ledger_url)
    assert migrated == description(url)
    assert migrated.keys() == metadata.tables.keys()
    assert "pending" in str(migrated["akool_jobs"]["indexes"]["ix_akool_jobs_due"][2])
    assert len(migrated["akool_jobs"]["checks"]) == 3
    database = Database(ledger_url)
    assert schema_differences(database) == []  # and Alembic sees none either
    database.close()


def test_a_ledger_of_another_version_is_refused_and_left_alone(url: str) -> None:
    JobLedger.create(url).close()
    for version, open_ledger, advice in (
        ("9999", JobLedger.open, r"9999.*Upgrade akool-dagster"),
        ("9999", JobLedger.create, r"9999.*Upgrade akool-dagster"),
        ("0000", JobLedger.open, r"older schema 0000.*ledger init"),
    ):
        execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")  # noqa: S608
        before = contents(url)
        with pytest.raises(LedgerSchemaError, match=advice):
            open_ledger(url)
        assert contents(url) == before


def test_a_creation_that_breaks_off_leaves_nothing_behind(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for last in ("alembic.op.create_index", "akool_dagster.ledger.database.uuid.uuid4"):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(last, break_off)
            JobLedger.create(url)
        assert contents(url) == {}
        with pytest.raises(LedgerMissingError):
            JobLedger.open(url)
    JobLedger.create(url).close()
    assert description(url).keys() == metadata.tables.keys()


def test_a_ledger_can_live_beside_other_tables(url: str) -> None:
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('x')")
    with JobLedger.create(url) as ledger:
        assert track(ledger.account(ACCOUNT), "a").added == 1
    assert contents(url)["alembic_version"] == [("x",)]


def test_the_database_itself_refuses_what_cannot_be(account: AccountLedger, ledger_url: str) -> None:
    track(account, "a")
    for statement in (
        "UPDATE akool_jobs SET state = 'done'",
        "UPDATE akool_jobs SET state = 'failed'",
        "UPDATE akool_jobs SET settled_at = 1",
        "UPDATE akool_jobs SET video_state = 'pending'",
        "UPDATE akool_jobs SET state = 'completed', settled_at = 1",
        "INSERT INTO akool_ledger VALUES (2, 'other', 0, 0)",
    ):
        with pytest.raises(sa.exc.IntegrityError):
            execute(ledger_url, statement)
    assert [job.state for job in account.jobs()] == ["pending"]
