"""What the ledger remembers of landings. None of it is the truth: that is Dagster's event log."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import KnownLanding
from akool_dagster.ledger.schema import HOUR_MS, accounts, hours, jobs, landings, ledger


class Landings:
    """The landings of one account."""

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account

    def known(self) -> dict[tuple[str, str], KnownLanding]:
        """Return what the event log last said, by kind and partition key."""
        query = sa.select(landings.c.kind, landings.c.partition_key, landings.c.revision, landings.c.checked_at)
        with self._database.read() as connection:
            return {
                (kind, key): KnownLanding(revision=revision, checked_at=checked_at)
                for kind, key, revision, checked_at in connection.execute(
                    query.where(landings.c.account == self._account)
                )
            }

    def remember(self, found: Mapping[tuple[str, str], KnownLanding]) -> None:
        """Keep a copy of what the event log said, by kind and partition key."""
        if not found:
            return
        statement = self._database.insert(landings)
        statement = statement.on_conflict_do_update(
            index_elements=[landings.c.account, landings.c.kind, landings.c.partition_key],
            set_={"revision": statement.excluded.revision, "checked_at": statement.excluded.checked_at},
        )
        rows = [
            {
                "account": self._account,
                "kind": kind,
                "partition_key": key,
                "revision": known.revision,
                "checked_at": known.checked_at,
            }
            for (kind, key), known in sorted(found.items())  # one order of locks for everybody
        ]
        with self._database.write() as connection:
            connection.execute(statement, rows)

    def forget(self, kind: str, partition_key: str) -> None:
        """Drop the copy of one partition, so that the next tick asks the event log: a run has been at work on it."""
        statement = sa.delete(landings).where(
            landings.c.account == self._account,
            landings.c.kind == kind,
            landings.c.partition_key == partition_key,
        )
        with self._database.write() as connection:
            connection.execute(statement)

    def have_begun(self) -> bool:
        """Return whether anything of the account has ever landed, so that its storage root must be marked."""
        query = sa.select(accounts.c.landed).where(accounts.c.account == self._account)
        with self._database.read() as connection:
            return bool(connection.execute(query).scalar())

    def note_first(self) -> None:
        """Remember that something of the account has landed."""
        statement = self._database.insert(accounts).values(account=self._account, landed=True)
        statement = statement.on_conflict_do_update(index_elements=[accounts.c.account], set_={"landed": True})
        with self._database.write() as connection:
            connection.execute(statement)

    def land_anew(self, start: int, end: int, above: int) -> None:
        """Stamp the jobs with ``start <= partition_at < end`` above a revision that was met in a landed table.

        A ledger restored from a backup counts from before what it had already landed; what it recorded since then
        would look as if it had landed. So stamped, the partition is asked for again, and lands or is refused aloud.
        """
        jobs_there = (jobs.c.account == self._account, jobs.c.partition_at >= start, jobs.c.partition_at < end)
        first_hour = start - start % HOUR_MS
        hours_there = (hours.c.account == self._account, hours.c.hour_at >= first_hour, hours.c.hour_at < end)
        with self._database.write() as connection:
            if not self._database.is_sqlite:
                # Whoever records locks jobs and then the counter; this takes the counter and then many jobs.
                connection.execute(sa.text(f"LOCK TABLE {jobs.name} IN EXCLUSIVE MODE"))
            highest = connection.execute(sa.select(ledger.c.revision).with_for_update()).scalar_one()
            revision = max(highest, above) + 1
            connection.execute(sa.update(ledger).values(revision=revision))
            for table, there, marks in ((jobs, jobs_there, REVISIONS), (hours, hours_there, HEADS)):
                stamped = {
                    name: sa.case((table.c[name] > 0, sa.literal(revision, sa.BigInteger)), else_=table.c[name])
                    for name in marks
                }
                connection.execute(sa.update(table).where(*there).values(stamped))


HEADS = ("head", "video_head")
REVISIONS = ("revision", "video_revision", *HEADS)
