"""What the ledger knows, as frozen records. All times are milliseconds since the Unix epoch, UTC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import TypeVar

from akool_dagster.base.job_ids import JOB_ID_PATTERN, OBJECT_ID_PATTERN, normalise_id
from akool_dagster.ledger.errors import InvalidJobError

UNSTORABLE_TEXT = re.compile("[\x00\ud800-\udfff]")
"""PostgreSQL refuses NUL, and a lone surrogate cannot be written as UTF-8 anywhere."""
LABEL_LIMITS = (64, 1024)
"""The most characters in a label's key and in its value."""
LEASE_MS = 60_000
"""How long a lease lives unless it is renewed: a killed run frees its partition after this."""


class LandingKind(StrEnum):
    """The two kinds of landing, each with a Dagster job and a lease of its own."""

    TABLES = "tables"
    VIDEOS = "videos"


class JobState(StrEnum):
    """Where a job stands for us, whatever number Akool calls its status."""

    PENDING = "pending"  # polled until Akool says how it ended
    COMPLETED = "completed"  # final: Akool answered status 3
    FAILED = "failed"  # final: Akool answered status 4
    MISSING = "missing"  # Akool stopped returning it; `track --again` reopens it
    ABANDONED = "abandoned"  # no end within the give-up age; `track --again` reopens it
    FORGOTTEN = "forgotten"  # removed by `ledger forget`: an id that is never tracked again


FINAL_STATES = frozenset({JobState.COMPLETED, JobState.FAILED})
REOPENABLE_STATES = frozenset({JobState.MISSING, JobState.ABANDONED})


class VideoState(StrEnum):
    """Where a completed job's video stands."""

    PENDING = "pending"  # to be downloaded, or tried again
    STORED = "stored"  # verified and published in the storage root
    UNVERIFIED = "unverified"  # what Akool served is kept, but the verifier refuses it; `track --again` tries anew
    LOST = "lost"  # no bytes could be had before its URL died; `track --again` tries once more


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRequest:
    """An id to be watched, with the caller's labels (a map of strings: campaign, cost centre)."""

    job_id: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackReport:
    """What tracking did, in numbers of distinct ids."""

    added: int = 0
    known: int = 0
    repeated: int = 0
    relabelled: int = 0
    reopened: int = 0
    pruned: int = 0
    """Known ones that ended and were pruned: nothing of them changes."""
    forgotten: int = 0
    """Known ones that were forgotten: they stay so."""

    def __add__(self, other: TrackReport) -> TrackReport:
        return _sum(self, other)


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the ledger. The fields are the columns, in order."""

    account: str
    job_id: str
    partition_at: int
    """The time that decides the partition: fixed when the job is first tracked. Only `ledger adopt` moves it."""
    tracked_at: int
    watched_since: int
    """When the job was tracked or last reopened: the give-up age counts from here."""
    labels: str
    """JSON text of the caller's string map."""
    state: str
    status: int | None
    """Akool's number as last answered: 1 queueing, 2 processing, 3 completed, 4 failed, or any other."""
    next_poll_at: int
    polls: int
    misses: int
    first_missed_at: int | None
    urlless_polls: int
    """Answers with status 3 and no usable ``video_url``, so far."""
    call_size: int | None
    """The most ids in a call that asks for this one; null unless a call with this id failed."""
    last_polled_at: int | None
    last_code: int | None
    last_error: str | None
    queueing_seen_at: int | None
    processing_seen_at: int | None
    settled_at: int | None
    failure_reason: str | None
    payload: str | None
    """JSON text of the last answer's row, redacted. Null once it was pruned."""
    version: int
    """The ledger's counter at the last change that a table shows, in microseconds of that time or a little more."""
    video_state: str | None
    video_attempts: int
    video_refusals: int
    """Attempts whose file the verifier refused, since the video was last stored or asked for again."""
    video_next_at: int | None
    video_expires_at: int | None
    video_error: str | None
    video_record: str | None
    """JSON text of what is known of the stored file."""

    @property
    def is_tombstone(self) -> bool:
        """Whether the job ended and its payload is gone: its rows are in the tables alone."""
        return self.state in FINAL_STATES and self.payload is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """Akool returned a row for this id."""

    job_id: str
    status: int | None
    payload: str
    has_video_url: bool
    video_expires_at: int
    failure_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """Akool left the id out of its answer, or refused a call for this id alone with a content code."""

    job_id: str
    code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """Akool returned something for this id that cannot be read."""

    job_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A call for this id alone failed in a way that says nothing about the job: HTTP 5xx, no body, no answer."""

    job_id: str
    error: str
    others_answered: bool = False
    """Whether Akool answered for other ids meanwhile: then the trouble is the id's, and a job may grow too old."""


Observation = Answered | Missed | Unreadable | Unanswered


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedJob:
    """A due id, reserved for the poll pass that took it."""

    job_id: str
    call_size: int | None
    due_at: int
    """When it was due, for whoever gives it back without asking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReport:
    """What recording answers changed, in numbers of jobs."""

    completed: int = 0
    failed: int = 0
    missing: int = 0
    abandoned: int = 0
    changed: int = 0
    """Jobs whose row in a table now reads differently, the settled ones included."""

    def __add__(self, other: RecordReport) -> RecordReport:
        return _sum(self, other)


@dataclass(frozen=True, slots=True, kw_only=True)
class DueVideo:
    """A completed job whose video is to be downloaded now."""

    job_id: str
    partition_at: int
    payload: str
    expires_at: int
    attempts: int
    refusals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFailure:
    """A download that did not end with a verified file."""

    job_id: str
    error: str
    state: VideoState = VideoState.PENDING
    """The video's state from now on: pending, unverified or lost."""
    next_at: int | None = None
    """When a pending video is tried again."""
    refused: bool = False
    """Whether the verifier refused what was served."""
    counts: bool = True
    """Whether this was an attempt. It was none when what was served could not be kept."""

    def __post_init__(self) -> None:
        if (self.state == VideoState.PENDING) != (self.next_at is not None):
            raise ValueError("A pending video needs a next_at, for it would never be tried again; no other has one.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DirtyPartition:
    """A partition whose newest version has not landed, or whose videos are due, for one kind of landing."""

    partition_at: int
    """The partition's start."""
    tables_version: int = 0
    """Above what every enabled table has landed; 0: the tables are up to date."""
    videos_version: int = 0
    """Above what the videos' manifest has landed; 0: the manifest is up to date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueVideos:
    """The due videos of the jobs whose ``partition_at`` lies in one hour."""

    hour_at: int
    due: int
    earliest_expiry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """An account in numbers, at one time."""

    states: Mapping[str, int]
    pending_statuses: Mapping[str, int]
    """Pending jobs by Akool's status label; ``unseen`` before the first answer."""
    videos: Mapping[str, int]
    oldest_pending_ms: int | None
    """The age of the longest watched pending job."""
    due: int
    overdue: int
    """Pending jobs whose poll has been due for over ten minutes."""
    before_first_partition: int
    after_current_partition: int
    """Jobs that lie in a partition which has not begun: they were tracked under a clock that was ahead."""
    videos_waiting: int
    """Pending videos whose next attempt is not due yet."""

    @property
    def pending(self) -> int:
        """Return how many jobs are still being polled."""
        return self.states.get(JobState.PENDING, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseFacts:
    """Who took the lease of a partition last, and until when."""

    owner: str
    expires_at: int

    def is_live(self, now_ms: int) -> bool:
        """Return whether it is held now. One that ends later than any lease can was taken under a wrong clock."""
        return now_ms < self.expires_at <= now_ms + 2 * LEASE_MS

    @property
    def was_released(self) -> bool:
        """Return whether its owner gave it back: it did not run out."""
        return self.expires_at == 0


STATUS_LABELS: Mapping[int | None, str] = {
    None: "unseen",
    1: "queueing",
    2: "processing",
    3: "completed",
    4: "failed",
}
"""Akool's statuses [documented: results]; None before the first answer."""


def status_label(status: int | None) -> str:
    """Return Akool's word for a status number; ``unknown`` for one it does not document."""
    return STATUS_LABELS.get(status, "unknown")


def normalise_job_id(raw: str) -> str:
    """Return the id as the ledger keys it: blanks cut, 24 hex digits lower-cased.

    Raises `InvalidJobError` for anything that is not 1 to 64 letters, digits, ``_`` or ``-``.
    """
    job_id = normalise_id(raw)
    if not JOB_ID_PATTERN.fullmatch(job_id):
        shown = job_id if len(job_id) <= 80 else job_id[:77] + "..."
        raise InvalidJobError(
            f"{shown!r} is not a job id: expected 1 to 64 letters, digits, '_' or '-'.",
            job_id,
        )
    return job_id


def check_labels(job_id: str, labels: Mapping[str, str]) -> None:
    """Raise `InvalidJobError` for a label that cannot be stored."""
    longest_key, longest_value = LABEL_LIMITS
    for key, value in labels.items():
        if not key.strip() or len(key) > longest_key or len(value) > longest_value:
            raise InvalidJobError(
                f"label {key[:80]!r} of {job_id}: a key has 1 to {longest_key} characters, "
                f"a value at most {longest_value}.",
                job_id,
            )
        if UNSTORABLE_TEXT.search(key + value):
            raise InvalidJobError(f"label {key!r} of {job_id} has a character that is not valid in UTF-8 text.", job_id)


def partition_time(job_id: str, now_ms: int) -> int:
    """Return the time that decides the job's partition.

    The first 8 hex digits of an ObjectId are its creation second (verified on an id of the vendor's page);
    an id of another shape, or from the future, counts from now.
    """
    if OBJECT_ID_PATTERN.fullmatch(job_id):
        created_ms = int(job_id[:8], 16) * 1000
        if created_ms <= now_ms:
            return created_ms
    return now_ms


_Report = TypeVar("_Report", "TrackReport", "RecordReport")


def _sum(one: _Report, other: _Report) -> _Report:
    return type(one)(**{name.name: getattr(one, name.name) + getattr(other, name.name) for name in fields(one)})
