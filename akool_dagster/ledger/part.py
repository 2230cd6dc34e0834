"""What each part of an account's ledger is made of: how it writes jobs, and the account's own row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import Job
from akool_dagster.ledger.rows import JOB_FIELDS, ask_for_landing, next_version, update_jobs
from akool_dagster.ledger.schema import accounts, jobs

Change = tuple[Job | None, Job]
"""A job before and after; None before: the job is new."""
Asks = Callable[[Job | None, Job], tuple[bool, bool]]
"""Tells whether a change asks for a landing of the tables, and of the videos."""

_CHANGING_FIELDS = tuple(name for name in JOB_FIELDS if name not in {"account", "job_id"})


def asks_for_landing(before: Job | None, after: Job) -> tuple[bool, bool]:
    """Return whether a change asks for a landing of the tables, and of the videos. A job that is new asks for none."""
    if before is None:
        return False, False
    return (before.state, before.labels) != (after.state, after.labels), before.video_state != after.video_state


class LedgerPart:
    """One account's jobs in a database, at the times of a clock."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def _write_jobs(self, connection: sa.Connection, changes: Sequence[Change], asks: Asks = asks_for_landing) -> None:
        """Write new and changed jobs under the ledger's next version, and ask for their landings.

        The transaction must have locked the changed jobs, and be ``alone`` when there are new ones.
        """
        if not changes:
            return
        version = next_version(connection, self._clock.now_us())
        new = [replace(after, version=version) for before, after in changes if before is None]
        if new:
            connection.execute(sa.insert(jobs), [{name: getattr(job, name) for name in JOB_FIELDS} for job in new])
        changed = [replace(after, version=version) for before, after in changes if before is not None]
        update_jobs(connection, self._account, _CHANGING_FIELDS, changed)
        asked = [(after.partition_at, *asks(before, after)) for before, after in changes]
        ask_for_landing(
            self._database,
            connection,
            self._account,
            version,
            tables=[at for at, tables, _ in asked if tables],
            videos=[at for at, _, videos in asked if videos],
        )

    def _account_value(self, column: sa.Column[Any]) -> Any:
        """Return one column of the account's row; None where there is no row yet."""
        return self._database.value(sa.select(column).where(accounts.c.account == self._account))

    def _set_account_values(self, values: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> None:
        """Write the account's row in one statement. ``changes``: expressions to set instead where there is a row."""
        statement = self._database.insert(accounts).values({"account": self._account, **values})
        statement = statement.on_conflict_do_update(index_elements=[accounts.c.account], set_=changes or values)
        with self._database.write() as connection:
            connection.execute(statement)
