"""How one observation moves one job: a pure function, and the limits it goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from akool_dagster.ledger.records import (
    REOPENABLE_STATES,
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

NO_VIDEO_URL = "Akool reported the job as completed but gave no usable video_url yet."


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """After how much patience a job stops being polled."""

    misses: int = 5
    """Polls in a row that did not return the id ..."""
    miss_grace_ms: int = 600_000
    """... over at least this long, before a job that Akool refuses or never returned is ``missing`` ..."""
    returned_miss_grace_ms: int = DAY_MS
    """... or this long, when Akool did return it before: a key of another account, or an odd day of Akool's."""
    urlless_polls: int = 5
    """How often a status 3 without a usable ``video_url`` is looked at again before the video's run asks for it."""
    give_up_ms: int = 7 * DAY_MS
    """How long a job is watched before it is ``abandoned``: as long as Akool keeps a video. Two looks must be past it:
    one tick under a clock that went ahead gives up nothing."""


LookAgain = Callable[[int], int]
"""The schedule: how long a job has been watched to the wait before its next poll, both in milliseconds."""


def observe(job: Job, seen: Observation, now_ms: int, look_again: LookAgain, limits: Limits) -> Job:
    """Return the job as it stands after the observation. A final job is returned unchanged."""
    if job.state != JobState.PENDING:
        return job
    # Since it is watched, not since it was made: an old job that is tracked today may still be about to end.
    watched_ms = now_ms - job.watched_since
    too_old = watched_ms >= limits.give_up_ms
    # The changes are collected and made at once: each copy of a job costs as much as reading its row.
    changes: dict[str, object] = {
        "polls": job.polls + 1,
        "last_polled_at": now_ms,
        "next_poll_at": now_ms + look_again(max(0, watched_ms)),
        "misses": 0,
        "first_missed_at": None,
        "last_code": None,
        "last_error": None,
    }
    match seen:
        case Answered():
            urlless_polls = 0 if too_old else limits.urlless_polls
            changes |= _answered(job, seen, now_ms, urlless_polls) | {"poll_alone": False}
        case Missed():
            changes |= _missed(job, seen, now_ms, limits)
        case Unreadable():
            changes |= {"last_error": seen.error, "poll_alone": job.poll_alone or seen.alone}
    # An outage says nothing of the job: its end may wait behind it.
    is_certain = not isinstance(seen, Unreadable) or seen.is_certain
    if "state" not in changes and too_old and is_certain and _was_too_old(job, now_ms, limits):
        changes["state"] = JobState.ABANDONED
    return replace(job, **changes)  # type: ignore[arg-type]


def _was_too_old(job: Job, now_ms: int, limits: Limits) -> bool:
    """Return whether the last look at the job, too, was past its age."""
    last = job.last_polled_at
    return last is not None and job.watched_since + limits.give_up_ms <= last <= now_ms


def _answered(job: Job, seen: Answered, now_ms: int, urlless_polls: int) -> dict[str, object]:
    changes: dict[str, object] = {"status": seen.status, "payload": seen.payload}
    match seen.status:
        case 1:
            changes["queueing_seen_at"] = _first(job.queueing_seen_at, now_ms)
        case 2:
            changes["processing_seen_at"] = _first(job.processing_seen_at, now_ms)
        case 3 if not seen.has_video_url and job.urlless_polls < urlless_polls:
            changes |= {"urlless_polls": job.urlless_polls + 1, "last_error": NO_VIDEO_URL}
        case 3:
            changes |= {
                "state": JobState.COMPLETED,
                "settled_at": now_ms,
                "video_state": VideoState.PENDING,
                "video_next_at": now_ms,
                "video_expires_at": seen.video_expires_at,
                "video_error": job.video_error if seen.has_video_url else NO_VIDEO_URL,
            }
        case 4:
            changes |= {"state": JobState.FAILED, "settled_at": now_ms, "failure_reason": seen.failure_reason}
    return changes


def _missed(job: Job, seen: Missed, now_ms: int, limits: Limits) -> dict[str, object]:
    first_missed_at = min(_first(job.first_missed_at, now_ms), now_ms)  # a clock may have been set back since
    changes: dict[str, object] = {
        "misses": job.misses + 1,
        "first_missed_at": first_missed_at,
        "poll_alone": job.poll_alone or seen.alone,
        "last_code": seen.code,
        "last_error": (
            f"Akool did not return it, {job.misses + 1} times in a row."
            if seen.code is None
            else f"Akool answered code {seen.code} for this id."
        ),
    }
    was_returned = job.status is not None and seen.code is None
    grace_ms = limits.returned_miss_grace_ms if was_returned else limits.miss_grace_ms
    if job.misses + 1 >= limits.misses and now_ms - first_missed_at >= grace_ms:
        changes["state"] = JobState.MISSING
    return changes


def _first(seen_at: int | None, now_ms: int) -> int:
    return now_ms if seen_at is None else seen_at


def reopened(job: Job, now_ms: int) -> Job:
    """Return the job as it stands when somebody asks for it again: polled anew, or its lost video tried once more.

    A job that has ended stays so. A lost video whose payload was pruned stays lost: its URL is not known any more.
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
    if job.video_state == VideoState.LOST and job.payload is not None:
        return replace(job, video_state=VideoState.PENDING, video_next_at=now_ms)
    return job


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
