"""Bringing the ledger up to what landed tables say. A job only ever moves forward."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from enum import StrEnum

import sqlalchemy as sa

from akool_dagster.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import FINAL_STATES, REOPENABLE_STATES, Job, JobState, VideoState
from akool_dagster.ledger.rows import (
    JOB_COLUMNS,
    chunks,
    json_text,
    locked_jobs,
    lower_hours,
    next_revision,
    raise_hours,
    update_jobs,
)
from akool_dagster.ledger.schema import jobs, ledger
from akool_dagster.ledger.transitions import reopened


class Outcome(StrEnum):
    """What restoring did to one job; of several things the first in this order."""

    ADDED = "added"  # the ledger did not know it
    SETTLED = "settled"  # the ledger did not know its end
    FILLED = "filled"  # its payload had been pruned
    UPDATED = "updated"  # its video's state, its labels, its partition or the times it was first seen
    UNCHANGED = "unchanged"  # the ledger knew as much, or more


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundJob:
    """A job as landed tables show it, and the highest revision of those."""

    job: Job
    revision: int
    is_whole: bool = True
    """Whether its payload was made of a row of ``results``, the one table that has all that Akool sent."""
    lacks_row: bool = False
    """Whether a table shows its end, but none its full row: it is pending, for Akool to be asked again."""
    window: tuple[int, int] | None = None
    """The first millisecond of the partition that it landed in, and of the next; a job that the ledger has elsewhere
    moves there. None: it stays where the ledger has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What restoring did."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    asked_again: int = 0
    """Jobs that a table shows as ended, and that are polled now for want of their full row."""
    filled: frozenset[str] = frozenset()
    """The jobs whose payload had been pruned and is there again."""

    def __add__(self, other: Restored) -> Restored:
        return Restored(
            outcomes=self.outcomes + other.outcomes,
            asked_again=self.asked_again + other.asked_again,
            filled=self.filled | other.filled,
        )


_ENDED = ("state", "status", "settled_at", "failure_reason", "payload")
_VIDEO = ("video_state", "video_attempts", "video_next_at", "video_expires_at", "video_error", "video_record")


class Restoring:
    """Restores the jobs of one account."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def count_on_from(self, revision: int) -> None:
        """Raise the ledger's counter to a revision that was met in a table. It never goes back."""
        statement = sa.update(ledger).where(ledger.c.revision < revision).values(revision=revision)
        with self._database.write() as connection:
            connection.execute(statement)

    def restore(self, found: Sequence[FoundJob], *, dry_run: bool = False) -> Restored:
        """Make the ledger know at least what was found, 500 jobs a transaction.

        What is added or moved is stamped so that its partition lands again. With ``dry_run`` nothing is written.
        """
        total = Restored()
        for chunk in chunks(found):
            total += self._restore_chunk(chunk, dry_run)
        return total

    def _restore_chunk(self, chunk: Sequence[FoundJob], dry_run: bool) -> Restored:
        with self._database.write() as connection:
            ids = [one.job.job_id for one in chunk]
            known = {job.job_id: job for job in locked_jobs(connection, self._account, ids)}
            new = [one for one in chunk if one.job.job_id not in known]
            moves = [
                _Move(one, known[one.job.job_id], brought_up(known[one.job.job_id], one))
                for one in chunk
                if one.job.job_id in known
            ]
            added = set(ids) - known.keys()
            if not dry_run:
                added = self._write(connection, [one.job for one in new], [one for one in moves if one.changes])
        restored = Restored(
            outcomes=Counter(move.outcome for move in moves) + Counter({Outcome.ADDED: len(added)}),
            asked_again=sum(one.lacks_row for one in new if one.job.job_id in added)
            + sum(move.found.lacks_row and move.after.state == JobState.PENDING for move in moves),
            filled=frozenset(move.after.job_id for move in moves if move.fills),
        )
        # On PostgreSQL another process may have tracked them at the same moment: they are known by now.
        raced = [one for one in new if one.job.job_id not in added]
        return restored + self._restore_chunk(raced, dry_run) if raced else restored

    def _write(self, connection: sa.Connection, new: list[Job], moves: list[_Move]) -> set[str]:
        """Write new jobs and changed ones; return the ids of the new that were not there already."""
        stamping = [move for move in moves if move.outcome != Outcome.FILLED]
        revision = next_revision(connection, self._clock.now_ms()) if new or stamping else 0
        stamped = [_stamped(job, revision) for job in new]
        added: set[str] = set()
        if stamped:
            names = [column.key for column in JOB_COLUMNS]
            rows = [dict(zip(names, astuple(job), strict=True)) for job in stamped]
            statement = self._database.insert(jobs).on_conflict_do_nothing().returning(jobs.c.job_id)
            added.update(connection.execute(statement, rows).scalars())
        moved = [(move.before, _stamped(move.after, revision)) for move in stamping]
        filled = [(move.before, move.after) for move in moves if move.outcome == Outcome.FILLED]
        update_jobs(connection, self._account, [*moved, *filled])
        lower_hours(
            connection,
            self._account,
            [before.partition_at for before, after in moved if before.partition_at != after.partition_at],
        )
        landing_anew = [*(job for job in stamped if job.job_id in added), *(after for _, after in moved)]
        if landing_anew:
            raise_hours(self._database, connection, self._account, landing_anew)
        return added


@dataclass(frozen=True, slots=True)
class _Move:
    """A known job before and after what was found."""

    found: FoundJob
    before: Job
    after: Job

    @property
    def changes(self) -> bool:
        return self.before != self.after

    @property
    def fills(self) -> bool:
        return self.before.state in FINAL_STATES and self.before.payload is None and self.after.payload is not None

    @property
    def outcome(self) -> Outcome:
        before, after = self.before, self.after
        if before == after:
            return Outcome.UNCHANGED
        if before.state != after.state and after.state in FINAL_STATES:
            return Outcome.SETTLED
        if replace(before, payload=after.payload) == after:
            return Outcome.FILLED
        return Outcome.UPDATED


def brought_up(known: Job, found: FoundJob) -> Job:
    """Return a known job with what the tables know beyond it. Nothing ever moves back.

    Labels of both are kept; where they differ, those of the newer state win. A job that landed in another partition
    than the ledger has it in moves there: it would be in two.
    """
    told, newer = found.job, found.revision > known.revision
    ours, theirs = json.loads(known.labels), json.loads(told.labels)
    labels = ours | theirs if newer else theirs | ours
    after = known if labels == ours else replace(known, labels=json_text(labels))
    if found.window is not None and not found.window[0] <= known.partition_at < found.window[1]:
        after = replace(after, partition_at=told.partition_at)
    if known.state not in FINAL_STATES:
        return _unsettled_brought_up(after, found, newer)
    if told.state != known.state:
        return after
    if known.payload is None and found.is_whole:  # else its day would land with empty columns
        after = replace(after, payload=told.payload)
    if _video_moves_forward(known, found):
        after = replace(after, **{name: getattr(told, name) for name in _VIDEO})
    return after


def _unsettled_brought_up(known: Job, found: FoundJob, newer: bool) -> Job:
    told = found.job
    if found.lacks_row and known.state in REOPENABLE_STATES:
        known = reopened(known, told.next_poll_at)  # which is now
    if told.state in FINAL_STATES:
        forward = {name: getattr(told, name) for name in (*_ENDED, *_VIDEO)}
        known = replace(known, **forward, misses=0, first_missed_at=None, last_code=None, last_error=None)
    elif newer and told.status is not None:
        known = replace(known, status=told.status)
    seen = {name: getattr(told, name) for name in ("queueing_seen_at", "processing_seen_at")}
    return replace(known, **{name: at for name, at in seen.items() if getattr(known, name) is None})


def _video_moves_forward(known: Job, found: FoundJob) -> bool:
    told = found.job
    if told.video_state == VideoState.STORED:
        return known.video_state != VideoState.STORED  # a file that is there beats a URL that was lost
    if known.video_state != VideoState.PENDING:
        return False
    if told.video_attempts > known.video_attempts:
        return True
    # Without an attempt the tables only lack its URL; an older file tells of a loss that was reopened since.
    lost = told.video_state == VideoState.LOST and told.video_attempts == known.video_attempts > 0
    return lost and found.revision > known.video_revision


def _stamped(job: Job, revision: int) -> Job:
    if job.video_state is None:
        return replace(job, revision=revision, head=revision)
    return replace(job, revision=revision, head=revision, video_revision=revision, video_head=revision)
