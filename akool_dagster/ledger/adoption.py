"""Making a ledger know what landed tables show: after a loss, a backup or a move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.pruning import emptied
from akool_dagster.ledger.records import FINAL_STATES, Job, JobState
from akool_dagster.ledger.rows import (
    ask_for_landing,
    chunks,
    insert_jobs,
    json_text,
    locked_jobs,
    next_version,
    update_jobs,
)
from akool_dagster.ledger.schema import landed, leases, ledger

_FIELDS = tuple(field.name for field in fields(Job))
_ADOPTED_FIELDS = tuple(name for name in _FIELDS if name not in {"account", "job_id"})
_ENDING_FIELDS = (
    "state",
    "status",
    "settled_at",
    "failure_reason",
    "payload",
    "video_state",
    "video_attempts",
    "video_next_at",
    "video_expires_at",
    "video_error",
    "video_record",
)
_SEEN_FIELDS = ("tracked_at", "queueing_seen_at", "processing_seen_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundJob:
    """A job as the landed tables show it."""

    job: Job
    start: int
    end: int
    """The partition that the job's rows are in: its first millisecond and that of the next."""
    also: Sequence[tuple[int, int]] = ()
    """Other partitions that have a row of the job."""
    ended: tuple[str, int] | None = None
    """How and when the tables show that the job ended, also where ``job`` is to be polled again for its answer."""
    is_settled: bool = False
    """Whether the tables have all of it, for good: a ledger that does not know the job adds a tombstone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptReport:
    """What adopting did, in numbers of jobs."""

    added: int = 0
    """Jobs that only the tables knew."""
    settled: int = 0
    """Jobs whose end only the tables knew."""
    moved: int = 0
    """Jobs that the ledger had in another partition than their rows are in."""
    filled: int = 0
    """Jobs for which the tables knew times or labels that the ledger lacked."""
    unchanged: int = 0

    def __add__(self, other: AdoptReport) -> AdoptReport:
        return AdoptReport(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class Adoption:
    """Adopts the tables of one account."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def adopt(self, found: Sequence[FoundJob]) -> AdoptReport:
        """Make the ledger know at least what was found, 500 jobs a transaction. Forgotten jobs stay forgotten."""
        report = AdoptReport()
        for chunk in chunks(sorted(found, key=lambda one: one.job.job_id)):
            report += self._adopt_chunk(chunk)
        return report

    def raise_version(self, above: int) -> None:
        """Raise the ledger's counter above every version that was read in a table."""
        statement = sa.update(ledger).where(ledger.c.version <= above).values(version=above + 1)
        with self._database.write() as connection:
            connection.execute(statement)

    def land_everything_again(self) -> None:
        """Set every landed version to 0, and end every lease: what runs now landed elsewhere, or before."""
        with self._database.write() as connection:
            # Leases first, as `record_landed` locks them: a landing that ends now waits, and then finds its lease gone.
            connection.execute(sa.delete(leases).where(leases.c.account == self._account))
            connection.execute(sa.update(landed).where(landed.c.account == self._account).values(version=0))

    def _adopt_chunk(self, chunk: Sequence[FoundJob]) -> AdoptReport:
        with self._database.write() as connection:
            known = {job.job_id: job for job in locked_jobs(connection, self._account, [f.job.job_id for f in chunk])}
            new = [emptied(one.job) if one.is_settled else one.job for one in chunk if one.job.job_id not in known]
            pairs = [(known[one.job.job_id], one) for one in chunk if one.job.job_id in known]
            changes = [(job, after) for job, one in pairs if (after := brought_up(job, one)) != job]
            version = next_version(connection, self._clock.now_us()) if new or changes else 0
            rows = [{name: getattr(job, name) for name in _FIELDS} | {"version": version} for job in new]
            added = insert_jobs(self._database, connection, rows)
            changed = [replace(after, version=version) for _, after in changes]
            update_jobs(connection, self._account, _ADOPTED_FIELDS, changed)
            landing = [job for job in new if job.job_id in added] + changed
            ask_for_landing(
                self._database,
                connection,
                self._account,
                version,
                tables=[job.partition_at for job in landing],
                videos=[job.partition_at for job in landing if job.video_state is not None],
            )
        settled = [after for job, after in changes if job.settled_at is None and after.settled_at is not None]
        only_moved = [after for job, after in changes if after == replace(job, partition_at=after.partition_at)]
        raced = [one for one in chunk if one.job.job_id not in known and one.job.job_id not in added]
        report = AdoptReport(
            added=len(added),
            settled=len(settled),
            moved=sum(job.partition_at != after.partition_at for job, after in changes),
            filled=len(changes) - len(settled) - len(only_moved),
            unchanged=len(pairs) - len(changes),
        )
        # On PostgreSQL another process may have tracked them at the same time: they are known by now.
        return report + self._adopt_chunk(raced) if raced else report


def brought_up(known: Job, found: FoundJob) -> Job:
    """Return a known job with what the tables know beyond it.

    An end is never taken back. Labels of both are kept, the ledger's where they differ. Of two times at which
    something was first seen, the earlier is right.
    """
    told = found.job
    if known.state == JobState.FORGOTTEN:
        return known
    after = known
    homes = (*found.also, (found.start, found.end))
    if not any(start <= known.partition_at < end for start, end in homes):
        after = replace(after, partition_at=told.partition_at)
    if known.is_tombstone:
        return after
    if known.state not in FINAL_STATES and told.state in FINAL_STATES:
        after = replace(after, **{name: getattr(told, name) for name in _ENDING_FIELDS})
        if after.is_tombstone:
            return emptied(after)
    seen: dict[str, Any] = {name: _earlier(getattr(after, name), getattr(told, name)) for name in _SEEN_FIELDS}
    if found.ended is not None and found.ended[0] == after.state:
        seen["settled_at"] = _earlier(after.settled_at, found.ended[1])
        seen["failure_reason"] = after.failure_reason or told.failure_reason
    labels = json_text(json.loads(told.labels) | json.loads(known.labels))
    status = told.status if after.status is None else after.status
    return replace(after, labels=labels, status=status, **seen)


def _earlier(one: int | None, other: int | None) -> int | None:
    return min((time for time in (one, other) if time is not None), default=None)
