"""Dropping payloads that landed tables hold too. State, labels and times of the jobs stay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import JobState, VideoState
from akool_dagster.ledger.rows import chunks
from akool_dagster.ledger.schema import IS_PRUNED, jobs

_SETTLED_WITH_PAYLOAD = (
    jobs.c.payload.is_not(None)
    & jobs.c.settled_at.is_not(None)
    & ((jobs.c.state == JobState.FAILED) | jobs.c.video_state.in_([VideoState.STORED, VideoState.LOST]))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """How many payloads, and their length in bytes."""

    payloads: int = 0
    bytes: int = 0

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(payloads=self.payloads + other.payloads, bytes=self.bytes + other.bytes)


class Pruning:
    """Prunes one account."""

    def __init__(self, database: Database, account: str) -> None:
        self._database = database
        self._account = account
        self._bytes = (
            sa.func.length(sa.cast(jobs.c.payload, sa.LargeBinary))  # SQLite's own length counts characters
            if database.is_sqlite
            else sa.func.octet_length(jobs.c.payload)
        )

    def drop(
        self,
        landed_ids: Iterable[str],
        start: int,
        end: int,
        *,
        landed_revision: int,
        manifest_revision: int = 0,
        dry_run: bool = False,
    ) -> Pruned:
        """Drop the payloads of the landed jobs of a partition that the tables show as they are.

        Only of jobs that ended and whose video is settled too. ``landed_revision`` is that of the partition's
        ``results``, ``manifest_revision`` that of its ``videos``. With ``dry_run`` nothing is written.
        """
        # Whatever changes an ended job raises its revision and its head, but for one thing: a newer URL of its video
        # raises the revision alone, and lands in the manifest, where restoring looks for it first.
        newest = max(landed_revision, manifest_revision)
        total = Pruned()
        for chunk in chunks(landed_ids):
            where = (
                jobs.c.account == self._account,
                jobs.c.job_id.in_(chunk),
                jobs.c.partition_at >= start,
                jobs.c.partition_at < end,
                jobs.c.head <= landed_revision,
                jobs.c.revision <= newest,
                _SETTLED_WITH_PAYLOAD,
            )
            measured = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(self._bytes), 0)).where(*where)
            with self._database.write() as connection:
                number, length = connection.execute(measured).one()
                if number and not dry_run:
                    connection.execute(sa.update(jobs).where(*where).values(payload=None))
            total += Pruned(payloads=number, bytes=int(length))
        return total

    def kept(self, before: int) -> int:
        """Return how many jobs that ended, with ``partition_at`` before a moment, have their payload."""
        kept = (jobs.c.settled_at.is_not(None), jobs.c.payload.is_not(None), jobs.c.partition_at < before)
        query = sa.select(sa.func.count()).where(jobs.c.account == self._account, *kept)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def pruned_ids(self, start: int = 0, end: int = 2**62) -> list[str]:
        """Return the jobs with ``start <= partition_at < end`` that ended and have no payload any more, by id."""
        there = (jobs.c.account == self._account, jobs.c.partition_at >= start, jobs.c.partition_at < end)
        with self._database.read() as connection:
            return sorted(connection.execute(sa.select(jobs.c.job_id).where(*there, IS_PRUNED)).scalars())
