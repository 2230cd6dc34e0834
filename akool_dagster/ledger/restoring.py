"""Bringing the ledger up to what landed tables say. A job only ever moves forward."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from enum import StrEnum

import sqlalchemy as sa

from akool_dagster.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import FINAL_STATES, Job, VideoState
from akool_dagster.ledger.rows import (
    JOB_COLUMNS,
    chunks,
    json_text,
    locked_jobs,
    next_revision,
    raise_hours,
    update_jobs,
)
from akool_dagster.ledger.schema import jobs, ledger


class Outcome(StrEnum):
    """What restoring did to one job; of several things the first in this order."""

    ADDED = "added"  # the ledger did not know it
    SETTLED = "settled"  # the ledger did not know its end
    FILLED = "filled"  # its payload had been pruned
    UPDATED = "updated"  # its video's state, its labels or the times it was first seen
    UNCHANGED = "unchanged"  # the ledger knew as much, or more


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundJob:
    """A job as landed tables show it, and the highest revision of those."""

    job: Job
    revision: int


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

    def restore(self, found: Sequence[FoundJob], *, dry_run: bool = False) -> Counter[Outcome]:
        """Make the ledger know at least what was found, 500 jobs a transaction; return how many of each outcome.

        What is added or moved is stamped so that its partition lands again. With ``dry_run`` nothing is written.
        """
        outcomes: Counter[Outcome] = Counter()
        for chunk in chunks(found):
            with self._database.write() as connection:
                known = {
                    job.job_id: job for job in locked_jobs(connection, self._account, [f.job.job_id for f in chunk])
                }
                added = [one.job for one in chunk if one.job.job_id not in known]
                changed = []
                for one in chunk:
                    if (before := known.get(one.job.job_id)) is not None:
                        after = brought_up(before, one)
                        outcome = _outcome(before, after)
                        outcomes[outcome] += 1
                        if outcome != Outcome.UNCHANGED:
                            changed.append((before, after))
                outcomes[Outcome.ADDED] += len(added)
                if not dry_run:
                    self._write(connection, added, changed)
        return +outcomes

    def _write(self, connection: sa.Connection, added: list[Job], changed: list[tuple[Job, Job]]) -> None:
        filled = [pair for pair in changed if _outcome(*pair) == Outcome.FILLED]
        stamping = [pair for pair in changed if _outcome(*pair) != Outcome.FILLED]
        revision = next_revision(connection, self._clock.now_ms()) if added or stamping else 0
        stamped = [_stamped(job, revision) for job in added]
        moved = [(before, _stamped(after, revision)) for before, after in stamping]
        if stamped:
            names = [column.key for column in JOB_COLUMNS]
            rows = [dict(zip(names, astuple(job), strict=True)) for job in stamped]
            connection.execute(self._database.insert(jobs).on_conflict_do_nothing(), rows)
        update_jobs(connection, self._account, [*moved, *filled])
        landing_anew = [*stamped, *(after for _, after in moved)]
        if landing_anew:
            raise_hours(self._database, connection, self._account, landing_anew)


def brought_up(known: Job, found: FoundJob) -> Job:
    """Return a known job with what the tables know beyond it. Nothing ever moves back.

    Labels of both are kept; where they differ, those of the newer state win.
    """
    told, newer = found.job, found.revision > known.revision
    ours, theirs = json.loads(known.labels), json.loads(told.labels)
    labels = ours | theirs if newer else theirs | ours
    after = known if labels == ours else replace(known, labels=json_text(labels))
    if known.state not in FINAL_STATES:
        return _unsettled_brought_up(after, told, newer)
    if told.state != known.state:
        return after
    if known.payload is None:
        after = replace(after, payload=told.payload)
    if _video_moves_forward(known, told):
        after = replace(after, **{name: getattr(told, name) for name in _VIDEO})
    return after


def _unsettled_brought_up(known: Job, told: Job, newer: bool) -> Job:
    if told.state in FINAL_STATES:
        forward = {name: getattr(told, name) for name in (*_ENDED, *_VIDEO)}
        known = replace(known, **forward, misses=0, first_missed_at=None, last_code=None, last_error=None)
    elif newer and told.status is not None:
        known = replace(known, status=told.status)
    seen = {name: getattr(told, name) for name in ("queueing_seen_at", "processing_seen_at")}
    return replace(known, **{name: at for name, at in seen.items() if getattr(known, name) is None})


def _video_moves_forward(known: Job, told: Job) -> bool:
    if told.video_state == VideoState.STORED:
        return known.video_state != VideoState.STORED  # a file that is there beats a URL that was lost
    if known.video_state != VideoState.PENDING:
        return False
    tried = told.video_attempts >= max(1, known.video_attempts)  # else the tables only lack its URL
    return tried and (told.video_state == VideoState.LOST or told.video_attempts > known.video_attempts)


def _outcome(before: Job, after: Job) -> Outcome:
    if before == after:
        return Outcome.UNCHANGED
    if before.state != after.state:
        return Outcome.SETTLED
    if replace(before, payload=after.payload) == after:
        return Outcome.FILLED
    return Outcome.UPDATED


def _stamped(job: Job, revision: int) -> Job:
    if job.video_state is None:
        return replace(job, revision=revision, head=revision)
    return replace(job, revision=revision, head=revision, video_revision=revision, video_head=revision)
