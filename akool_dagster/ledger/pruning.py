"""Emptying jobs that the landed tables hold, and forgetting jobs for good."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import Job, JobState, VideoState
from akool_dagster.ledger.rows import (
    ask_for_landing,
    chunks,
    insert_jobs,
    locked_jobs,
    new_job_row,
    next_version,
    update_jobs,
)
from akool_dagster.ledger.schema import IS_TOMBSTONE, jobs

_KEPT_FIELDS = frozenset({"account", "job_id", "partition_at", "state", "settled_at", "video_state"})
_EMPTIED = {
    column.key: "{}" if column.key == "labels" else None if column.nullable else 0
    for column in jobs.c
    if column.key not in _KEPT_FIELDS
}
"""The values of a tombstone in the columns that pruning empties."""
_IS_SETTLED_WITH_PAYLOAD = (
    jobs.c.payload.is_not(None)
    & jobs.c.settled_at.is_not(None)
    & ((jobs.c.state == JobState.FAILED) | jobs.c.video_state.in_([VideoState.STORED, VideoState.LOST]))
)


def emptied(job: Job) -> Job:
    """Return a job that ended as a tombstone: an id, a partition and how the job and its video ended."""
    return replace(job, **_EMPTIED)  # type: ignore[arg-type]


class Pruning:
    """Prunes one account, and forgets jobs. Whoever prunes holds both leases of the partition."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def prunable(self, start: int, end: int) -> dict[str, str]:
        """Return the state, by id, of the jobs of a partition that failed, or whose video is stored or lost."""
        query = sa.select(jobs.c.job_id, jobs.c.state).where(
            jobs.c.account == self._account,
            jobs.c.partition_at >= start,
            jobs.c.partition_at < end,
            _IS_SETTLED_WITH_PAYLOAD,
        )
        with self._database.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def prune(self, job_ids: Iterable[str], until: int = END_OF_TIME) -> int:
        """Empty these jobs to tombstones; return how many were not empty.

        Jobs that changed after the version ``until``, which the tables have landed, stay as they are.
        """
        pruned = 0
        for chunk in chunks(sorted(job_ids)):
            with self._database.write() as connection:
                locked_jobs(connection, self._account, chunk)  # in order: the update locks them as they lie
                where = (jobs.c.account == self._account, jobs.c.job_id.in_(chunk), _IS_SETTLED_WITH_PAYLOAD)
                statement = sa.update(jobs).where(*where, jobs.c.version <= until)
                pruned += connection.execute(statement.values(_EMPTIED)).rowcount
        return pruned

    def tombstones(self, start: int = 0, end: int = END_OF_TIME) -> list[str]:
        """Return the tombstones with ``start <= partition_at < end``, by id."""
        where = (jobs.c.account == self._account, jobs.c.partition_at >= start, jobs.c.partition_at < end)
        query = sa.select(jobs.c.job_id).where(*where, IS_TOMBSTONE).order_by(jobs.c.job_id)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def partitions_of(self, job_ids: Collection[str]) -> dict[str, int]:
        """Return the ``partition_at`` of those of these jobs that the ledger knows."""
        found: dict[str, int] = {}
        for chunk in chunks(sorted(job_ids)):
            query = sa.select(jobs.c.job_id, jobs.c.partition_at).where(
                jobs.c.account == self._account, jobs.c.job_id.in_(chunk)
            )
            with self._database.read() as connection:
                found |= {row[0]: row[1] for row in connection.execute(query)}
        return found

    def forget(self, job_ids: Collection[str]) -> None:
        """Leave an id and no more of these jobs, known or not, so that no landing brings their rows back."""
        for chunk in chunks(sorted(job_ids)):
            self._forget_chunk(chunk)

    def _forget_chunk(self, job_ids: Sequence[str]) -> None:
        now = self._clock.now_ms()
        with self._database.write() as connection:
            known = locked_jobs(connection, self._account, job_ids)
            version = next_version(connection, self._clock.now_us())
            changed = [replace(_forgotten(job), version=version) for job in known]
            update_jobs(connection, self._account, _FORGOTTEN_FIELDS, changed)
            new = set(job_ids) - {job.job_id for job in known}
            rows = [new_job_row(self._account, job_id, {}, now, version) for job_id in sorted(new)]
            added = insert_jobs(self._database, connection, [row | _FORGOTTEN for row in rows])
            # A run that froze with a row in its hands may write it later: the next landing drops it.
            at = [job.partition_at for job in known]
            ask_for_landing(self._database, connection, self._account, version, tables=at, videos=at)
        # On PostgreSQL another process may have tracked them at the same time: they are known by now.
        if raced := sorted(new - added):
            self._forget_chunk(raced)


_FORGOTTEN = {name: value for name, value in _EMPTIED.items() if name != "version"} | {
    "state": JobState.FORGOTTEN,
    "settled_at": None,
    "video_state": None,
}
_FORGOTTEN_FIELDS = (*_FORGOTTEN, "version")


def _forgotten(job: Job) -> Job:
    return replace(job, **_FORGOTTEN)  # type: ignore[arg-type]
