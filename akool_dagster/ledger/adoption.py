"""Making a ledger know what landed tables show: after a loss, a backup or a move."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from akool_dagster.ledger.part import Change, LedgerPart
from akool_dagster.ledger.pruning import emptied
from akool_dagster.ledger.records import FINAL_STATES, Job, JobState, Report
from akool_dagster.ledger.rows import chunks, json_text, locked_jobs
from akool_dagster.ledger.schema import landed, leases, ledger

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
    """Whether the tables hold everything about the job: a ledger that does not know the job adds a tombstone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptReport(Report):
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


class Adoption(LedgerPart):
    """Adopts the tables of one account."""

    def adopt(self, found: Sequence[FoundJob]) -> AdoptReport:
        """Make the ledger know at least what was found, each job once. Forgotten jobs stay forgotten.

        Each 500 jobs are one transaction.
        """
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
        """Set every landed version to 0, and end every lease: a run that holds one landed elsewhere, or before."""
        with self._database.write() as connection:
            # Leases first, as `record_landed` locks them: a landing that ends now waits, and then finds its lease gone.
            connection.execute(sa.delete(leases).where(leases.c.account == self._account))
            connection.execute(sa.update(landed).where(landed.c.account == self._account).values(version=0))

    def _adopt_chunk(self, chunk: Sequence[FoundJob]) -> AdoptReport:
        with self._database.write(alone=True) as connection:
            known = {job.job_id: job for job in locked_jobs(connection, self._account, [f.job.job_id for f in chunk])}
            new: list[Change] = [
                (None, emptied(one.job) if one.is_settled else one.job) for one in chunk if one.job.job_id not in known
            ]
            pairs = [(known[one.job.job_id], one) for one in chunk if one.job.job_id in known]
            changes = [(job, after) for job, one in pairs if (after := _brought_up(job, one)) != job]
            self._write_jobs(connection, [*new, *changes], _asks)
        settled = sum(job.settled_at is None and after.settled_at is not None for job, after in changes)
        only_moved = sum(after == replace(job, partition_at=after.partition_at) for job, after in changes)
        return AdoptReport(
            added=len(new),
            settled=settled,
            moved=sum(job.partition_at != after.partition_at for job, after in changes),
            filled=len(changes) - settled - only_moved,
            unchanged=len(pairs) - len(changes),
        )


def _asks(_before: Job | None, after: Job) -> tuple[bool, bool]:
    return True, after.video_state is not None


def _brought_up(known: Job, found: FoundJob) -> Job:
    """Return a known job with what the tables know beyond it.

    An end is never taken back. Labels of both are kept, the ledger's where they differ. The earlier of two first-seen
    times is kept.
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
