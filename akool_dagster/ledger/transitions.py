"""How one observation moves one job: pure functions, and the limits they go by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Any

from akool_dagster.ledger.records import (
    REOPENABLE_STATES,
    Answered,
    Job,
    JobState,
    Missed,
    Observation,
    Unanswered,
    Unreadable,
    VideoState,
)

DAY_MS = 86_400_000

NO_VIDEO_URL = "Akool reported the job as completed but gave no usable video_url yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a job stops being polled."""

    misses: int = 5
    """How many polls in a row must miss an id before the job is ``missing``."""
    miss_grace_ms: int = 600_000
    """How long those polls must span when Akool refuses the id or never returned it."""
    returned_miss_grace_ms: int = DAY_MS
    """How long those polls must span when Akool returned the id before: the key may be another account's."""
    urlless_polls: int = 5
    """How often a status 3 without a usable ``video_url`` is polled again before the job completes without one."""
    give_up_ms: int = 7 * DAY_MS
    """How long a job is watched before it is ``abandoned``: as long as Akool keeps a video. Two polls must be past
    this age, so that one tick under a clock that is ahead abandons nothing."""


@dataclass(slots=True)
class PolledJob:
    """What polling reads and writes of a pending job. The fields are columns of the ledger.

    ``payload`` is written only: None leaves the one that is there. Not frozen, since a frozen record takes three times
    as long to make, and each answer makes two a job: `observe` alone changes the copy that it makes.
    """

    job_id: str
    partition_at: int
    watched_since: int
    state: str
    status: int | None
    next_poll_at: int
    polls: int
    misses: int
    first_missed_at: int | None
    urlless_polls: int
    call_size: int | None
    last_polled_at: int | None
    last_code: int | None
    last_error: str | None
    queueing_seen_at: int | None
    processing_seen_at: int | None
    settled_at: int | None
    failure_reason: str | None
    version: int
    video_state: str | None
    video_next_at: int | None
    video_expires_at: int | None
    video_error: str | None
    payload: str | None = None


_values_of: Callable[[PolledJob], tuple[Any, ...]] = attrgetter(*(field.name for field in fields(PolledJob)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """What a poll pass goes by: the schedule and the length of a call."""

    next_poll_delay_ms: Callable[[int], int]
    """How long a job has been watched to the wait before its next poll, both in milliseconds."""
    ids_per_request: int
    """The length of a call; a job whose ``call_size`` reaches this length is not parted any more."""


def observe(job: PolledJob, seen: Observation, now_ms: int, polling: Polling, limits: Limits) -> PolledJob:
    """Return the job as it stands after the observation."""
    # Since it is watched, not since it was made: an old job that is tracked today may still be about to end.
    watched_ms = now_ms - job.watched_since
    too_old = watched_ms >= limits.give_up_ms
    after = PolledJob(*_values_of(job))  # by position: each keyword would take as long as reading its column
    after.polls += 1
    after.next_poll_at = now_ms + polling.next_poll_delay_ms(max(0, watched_ms))
    says_something = True
    match seen:
        case Answered():
            _returned(after, polling, error=None)
            _answer(after, seen, now_ms, 0 if too_old else limits.urlless_polls)
        case Missed():
            _miss(after, seen, now_ms, limits)
            if seen.code is None:
                after.call_size = _doubled(after.call_size, polling.ids_per_request)
        case Unreadable():
            _returned(after, polling, error=seen.error)
        case Unanswered():
            after.last_error = seen.error
            # No answer during an outage is no look at the job: its end may wait behind the outage.
            says_something = seen.others_answered
    if says_something:
        after.last_polled_at = now_ms
        if after.state == JobState.PENDING and too_old and _was_too_old(job, now_ms, limits):
            after.state = JobState.ABANDONED
    return after


def _was_too_old(job: PolledJob, now_ms: int, limits: Limits) -> bool:
    """Return whether the last poll of the job, too, was past its age."""
    last = job.last_polled_at
    return last is not None and job.watched_since + limits.give_up_ms <= last <= now_ms


def _doubled(call_size: int | None, ids_per_request: int) -> int | None:
    return None if call_size is None or 2 * call_size >= ids_per_request else 2 * call_size


def _returned(after: PolledJob, polling: Polling, error: str | None) -> None:
    """Note that Akool's answer has a row of the job."""
    after.call_size = _doubled(after.call_size, polling.ids_per_request)
    after.misses = 0
    after.first_missed_at = after.last_code = None
    after.last_error = error


def _answer(after: PolledJob, seen: Answered, now_ms: int, urlless_polls: int) -> None:
    after.status = seen.status
    after.payload = seen.payload
    match seen.status:
        case 1:
            after.queueing_seen_at = _first(after.queueing_seen_at, now_ms)
        case 2:
            after.processing_seen_at = _first(after.processing_seen_at, now_ms)
        case 3 if not seen.has_video_url and after.urlless_polls < urlless_polls:
            after.urlless_polls += 1
            after.last_error = NO_VIDEO_URL
        case 3:
            after.state = JobState.COMPLETED
            after.settled_at = now_ms
            after.video_state = VideoState.PENDING
            after.video_next_at = now_ms
            after.video_expires_at = seen.video_expires_at
            if not seen.has_video_url:
                after.video_error = NO_VIDEO_URL
        case 4:
            after.state = JobState.FAILED
            after.settled_at = now_ms
            after.failure_reason = seen.failure_reason


def _miss(after: PolledJob, seen: Missed, now_ms: int, limits: Limits) -> None:
    after.misses += 1
    after.first_missed_at = min(_first(after.first_missed_at, now_ms), now_ms)  # a clock may have been set back since
    after.last_code = seen.code
    after.last_error = (
        f"Akool did not return it, {after.misses} times in a row."
        if seen.code is None
        else f"Akool answered code {seen.code} for this id."
    )
    was_returned = after.status is not None and seen.code is None
    grace_ms = limits.returned_miss_grace_ms if was_returned else limits.miss_grace_ms
    if after.misses >= limits.misses and now_ms - after.first_missed_at >= grace_ms:
        after.state = JobState.MISSING


def _first(seen_at: int | None, now_ms: int) -> int:
    return now_ms if seen_at is None else seen_at


def reopened(job: Job, now_ms: int) -> Job:
    """Return the job as it stands when somebody asks for it again.

    A missing or abandoned job is polled anew, and a video that is unverified or lost is tried again. A tombstone stays:
    its URL is not known any more.
    """
    if job.state in REOPENABLE_STATES:
        return replace(
            job,
            state=JobState.PENDING,
            watched_since=now_ms,
            next_poll_at=now_ms,
            misses=0,
            first_missed_at=None,
            urlless_polls=0,
            last_code=None,
            last_error=None,
        )
    if job.payload is not None and job.video_state in (VideoState.UNVERIFIED, VideoState.LOST):
        return replace(job, video_state=VideoState.PENDING, video_next_at=now_ms, video_refusals=0)
    return job


SHOWN_WHEN_POLLED = (
    "state",
    "status",
    "queueing_seen_at",
    "processing_seen_at",
    "settled_at",
    "failure_reason",
)
"""What the tables show of a job that polling may change. (A payload is shown once the job is final.)"""
_shown_of = attrgetter(*SHOWN_WHEN_POLLED)


def shows_differently(before: PolledJob, after: PolledJob) -> bool:
    """Return whether a row of a table reads differently after the poll."""
    return _shown_of(before) != _shown_of(after)
