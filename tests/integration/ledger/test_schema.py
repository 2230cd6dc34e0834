"""Conformance: the schema that the migrations make, and what a database that is no proper ledger gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from akool_dagster.ledger import JobLedger, LedgerMissingError, LedgerSchemaError
from akool_dagster.ledger.schema import VERSION_TABLE, metadata
from tests.integration.ledger.helpers import ACCOUNT, execute, track

pytest_plugins = ["tests.integration.ledger_databases"]

OPENERS = [JobLedger.open, JobLedger.create]


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
            "foreign keys": inspector.get_foreign_keys(name),
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


def test_the_migrations_make_what_the_code_describes(
    ledger: JobLedger, ledger_url: str, new_database: Callable[[], str]
) -> None:
    migrated = ledger_url
    described = new_database()
    engine = sa.create_engine(described, poolclass=sa.NullPool)
    metadata.create_all(engine)
    assert description(migrated) == description(described)
    assert description(migrated).keys() == metadata.tables.keys()
    partial = description(migrated)["akool_jobs"]["indexes"]["ix_akool_jobs_due"]
    assert "pending" in str(partial[2])
    assert description(migrated)["akool_jobs"]["checks"].keys() == {
        "ck_akool_jobs_state",
        "ck_akool_jobs_settled",
        "ck_akool_jobs_video",
    }


def test_alembic_sees_no_difference_either(ledger: JobLedger, ledger_url: str) -> None:
    engine = sa.create_engine(ledger_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize("open_ledger", OPENERS, ids=["open", "create"])
def test_a_newer_ledger_is_refused_and_left_alone(
    ledger: JobLedger, ledger_url: str, open_ledger: Callable[[str], JobLedger]
) -> None:
    track(ledger.account(ACCOUNT), "a")
    execute(ledger_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608
    before = contents(ledger_url)
    with pytest.raises(LedgerSchemaError, match=r"9999.*Upgrade akool-dagster"):
        open_ledger(ledger_url)
    assert contents(ledger_url) == before


def test_an_older_ledger_is_not_opened_and_says_how_to_upgrade_it(ledger: JobLedger, ledger_url: str) -> None:
    execute(ledger_url, f"UPDATE {VERSION_TABLE} SET version_num = '0000'")  # noqa: S608
    before = contents(ledger_url)
    with pytest.raises(LedgerSchemaError, match=r"older schema 0000.*ledger init"):
        JobLedger.open(ledger_url)
    assert contents(ledger_url) == before


def test_a_ledger_whose_creation_broke_off_is_not_opened_and_can_be_finished(
    ledger: JobLedger, ledger_url: str
) -> None:
    execute(ledger_url, "DELETE FROM akool_ledger")
    with pytest.raises(LedgerMissingError, match=r"not finished.*ledger init"):
        JobLedger.open(ledger_url)
    with JobLedger.create(ledger_url) as finished:
        assert track(finished.account(ACCOUNT), "a").added == 1


def test_a_migration_that_breaks_off_leaves_nothing_behind(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("alembic.op.create_index", break_off)
        with pytest.raises(KeyboardInterrupt):
            JobLedger.create(ledger_url)
    assert contents(ledger_url) == {}
    with pytest.raises(LedgerMissingError):
        JobLedger.open(ledger_url)
    JobLedger.create(ledger_url).close()
    assert description(ledger_url).keys() == metadata.tables.keys()


def test_a_ledger_can_live_beside_other_tables(new_database: Callable[[], str]) -> None:
    url = new_database()
    execute(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('x')")
    with JobLedger.create(url) as ledger:
        assert track(ledger.account(ACCOUNT), "a").added == 1
    assert contents(url)["alembic_version"] == [("x",)]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE akool_jobs SET state = 'done'",
        "UPDATE akool_jobs SET state = 'failed'",
        "UPDATE akool_jobs SET settled_at = 1",
        "UPDATE akool_jobs SET video_state = 'pending'",
        "UPDATE akool_jobs SET state = 'completed', settled_at = 1",
        "INSERT INTO akool_ledger VALUES (2, 'other', 0, 0)",
    ],
)
def test_the_database_itself_refuses_what_cannot_be(ledger: JobLedger, ledger_url: str, statement: str) -> None:
    track(ledger.account(ACCOUNT), "a")
    with pytest.raises(sa.exc.IntegrityError):
        execute(ledger_url, statement)
    assert [job.state for job in ledger.account(ACCOUNT).jobs()] == ["pending"]
