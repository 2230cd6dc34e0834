"""How one observation moves one job: a pure function, and the limits it goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from akool_dagster.ledger.records import (
    Answered,
    Job,
    JobState,
    Missed,
    Observation,
    Unreadable,
    VideoState,
)

DAY_MS = 86_400_000

STATUS_QUEUEING, STATUS_PROCESSING, STATUS_COMPLETED, STATUS_FAILED = 1, 2, 3, 4
"""Akool's job statuses [documented]. Only the last two end a job."""

NO_VIDEO_URL = "Akool reported the job as completed but never gave a usable video_url."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """After how much patience a job stops being polled."""

    misses: int = 5
    """Polls in a row that did not return the id ..."""
    miss_grace_ms: int = 600_000
    """... over at least this long, before the job is ``missing``."""
    urlless_polls: int = 5
    """How often a status 3 without a usable ``video_url`` is looked at again."""
    give_up_ms: int = 7 * DAY_MS
    """How long a job is watched before it is ``abandoned``: as long as Akool keeps a video."""


LookAgain = Callable[[int], int]
"""The schedule: a job's age in milliseconds to the wait before its next poll, in milliseconds."""


def observe(job: Job, seen: Observation, now_ms: int, look_again: LookAgain, limits: Limits) -> Job:
    """Return the job as it stands after the observation. A final job is returned unchanged."""
    if job.state != JobState.PENDING:
        return job
    age_ms = max(0, now_ms - job.partition_at)
    polled = replace(job, polls=job.polls + 1, last_polled_at=now_ms, next_poll_at=now_ms + look_again(age_ms))
    match seen:
        case Answered():
            moved = _answered(polled, seen, now_ms, limits)
        case Missed():
            moved = _missed(polled, seen, now_ms, limits)
        case Unreadable():
            moved = replace(polled, last_error=seen.error, last_code=None)
    if moved.state == JobState.PENDING and now_ms - job.watched_since >= limits.give_up_ms:
        return replace(moved, state=JobState.ABANDONED)
    return moved


def _answered(job: Job, seen: Answered, now_ms: int, limits: Limits) -> Job:
    answered = replace(
        job,
        status=seen.status,
        payload=seen.payload,
        misses=0,
        first_missed_at=None,
        last_code=None,
        last_error=None,
    )
    match seen.status:
        case 1:
            return replace(answered, queueing_seen_at=_first(job.queueing_seen_at, now_ms))
        case 2:
            return replace(answered, processing_seen_at=_first(job.processing_seen_at, now_ms))
        case 3 if seen.has_video_url:
            return replace(
                answered,
                state=JobState.COMPLETED,
                settled_at=now_ms,
                video_state=VideoState.PENDING,
                video_next_at=now_ms,
                video_expires_at=seen.video_expires_at,
            )
        case 3 if job.urlless_polls < limits.urlless_polls:
            return replace(answered, urlless_polls=job.urlless_polls + 1, last_error=NO_VIDEO_URL)
        case 3:
            return replace(
                answered,
                state=JobState.COMPLETED,
                settled_at=now_ms,
                video_state=VideoState.LOST,
                video_expires_at=seen.video_expires_at,
                video_error=NO_VIDEO_URL,
            )
        case 4:
            return replace(answered, state=JobState.FAILED, settled_at=now_ms, failure_reason=seen.failure_reason)
        case _:
            return answered


def _missed(job: Job, seen: Missed, now_ms: int, limits: Limits) -> Job:
    first_missed_at = _first(job.first_missed_at, now_ms)
    missed = replace(
        job,
        misses=job.misses + 1,
        first_missed_at=first_missed_at,
        poll_alone=job.poll_alone or seen.alone,
        last_code=seen.code,
        last_error=None if seen.code is None else f"Akool answered code {seen.code} for this id.",
    )
    patient = missed.misses < limits.misses or now_ms - first_missed_at < limits.miss_grace_ms
    return missed if patient else replace(missed, state=JobState.MISSING)


def _first(seen_at: int | None, now_ms: int) -> int:
    return now_ms if seen_at is None else seen_at


SHOWN_FIELDS = (
    "state",
    "status",
    "labels",
    "queueing_seen_at",
    "processing_seen_at",
    "settled_at",
    "failure_reason",
)
"""What the tables show of a job that is not final. (A payload is shown once the job is.)"""


def shows_differently(before: Job, after: Job) -> bool:
    """Return whether a row of ``akool/statuses`` or ``akool/results`` reads differently after the change."""
    return any(getattr(before, name) != getattr(after, name) for name in SHOWN_FIELDS)


def asks_for_landing(before: Job, after: Job) -> bool:
    """Return whether the change asks for the partition to be landed again.

    A job that settles, goes missing, is reopened or relabelled does; one merely seen queueing or
    processing does not.
    """
    return before.state != after.state or before.labels != after.labels
