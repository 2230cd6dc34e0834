"""Emptying jobs that the landed tables hold, and forgetting jobs for good."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import sqlalchemy as sa

from akool_dagster.ledger.part import Change, LedgerPart
from akool_dagster.ledger.records import Job, JobState, VideoState
from akool_dagster.ledger.rows import chunks, locked_jobs, new_job_row
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


class Pruning(LedgerPart):
    """Prunes one account, and forgets jobs. Whoever prunes holds both leases of the partition."""

    def prunable(self, start: int, end: int) -> dict[str, str]:
        """Return the state, by id, of the jobs of a partition that failed, or whose video is stored or lost."""
        query = sa.select(jobs.c.job_id, jobs.c.state).where(
            jobs.c.account == self._account,
            jobs.c.partition_at >= start,
            jobs.c.partition_at < end,
            _IS_SETTLED_WITH_PAYLOAD,
        )
        return dict(self._database.rows(query))

    def prune(self, job_ids: Iterable[str], until: int) -> int:
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

    def tombstones(self) -> list[str]:
        """Return the ids of the tombstones, in order."""
        where = (jobs.c.account == self._account, IS_TOMBSTONE)
        return [row[0] for row in self._database.rows(sa.select(jobs.c.job_id).where(*where).order_by(jobs.c.job_id))]

    def partitions_of(self, job_ids: Collection[str]) -> dict[str, int]:
        """Return the ``partition_at`` of those of these jobs that the ledger knows."""
        found: dict[str, int] = {}
        for chunk in chunks(sorted(job_ids)):
            where = (jobs.c.account == self._account, jobs.c.job_id.in_(chunk))
            found |= self._database.rows(sa.select(jobs.c.job_id, jobs.c.partition_at).where(*where))
        return found

    def forget(self, job_ids: Collection[str]) -> None:
        """Leave an id and no more of these jobs, known or not, so that no landing brings their rows back."""
        now = self._clock.now_ms()
        for chunk in chunks(sorted(set(job_ids))):
            with self._database.write(alone=True) as connection:
                known = {job.job_id: job for job in locked_jobs(connection, self._account, chunk)}
                new = (new_job_row(self._account, job_id, {}, now, 0) for job_id in chunk if job_id not in known)
                changes: list[Change] = [(job, _forgotten(job)) for job in known.values()]
                changes += [(None, _forgotten(Job(**row))) for row in new]
                self._write_jobs(connection, changes, _asks)


def _asks(before: Job | None, _after: Job) -> tuple[bool, bool]:
    # A run that froze with a row in its hands may write the row later: the next landing drops it.
    return before is not None, before is not None


_FORGOTTEN = {name: value for name, value in _EMPTIED.items() if name != "version"} | {
    "state": JobState.FORGOTTEN,
    "settled_at": None,
    "video_state": None,
}


def _forgotten(job: Job) -> Job:
    return replace(job, **_FORGOTTEN)  # type: ignore[arg-type]
