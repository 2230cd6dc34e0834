"""What landed tables say of one job, as a job of the ledger: the inverse of `akool_dagster.tables`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from akool_dagster.api.models import ResultRow
from akool_dagster.job_ids import OBJECT_ID_PATTERN
from akool_dagster.ledger.records import (
    FINAL_STATES,
    UNSTORABLE_TEXT,
    Job,
    JobState,
    VideoState,
    check_labels,
    normalise_job_id,
)
from akool_dagster.ledger.restoring import FoundJob
from akool_dagster.ledger.rows import json_text, new_job_row
from akool_dagster.ledger.transitions import Limits, observe
from akool_dagster.polling import observation_of
from akool_dagster.tables import CREDITS, DURATIONS, RESULTS, STATUSES, VIDEOS

Values = Mapping[str, Any]
"""One row, times in milliseconds since the Unix epoch."""

SENT_FIELDS = frozenset(field.alias or name for name, field in ResultRow.model_fields.items() if name != "extra")
"""The fields of Akool's rows that have a column of their own."""
FILE_FACTS = tuple(
    column.name
    for column in VIDEOS.columns
    if column.name
    in {
        "path",
        "bytes",
        "sha256",
        "container",
        "video_codec",
        "audio_codec",
        "width",
        "height",
        "fps",
        "frames",
        "probed_duration",
        "downloaded_at",
    }
)
STATUS_NUMBERS = {"completed": 3, "failed": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedRow:
    """What each table of one partition has of a job."""

    rows: Mapping[str, Values]
    """By the table's name; tables without the job are left out."""
    revisions: Mapping[str, int]
    """The tables' ``akool/revision``."""
    start: int
    end: int
    """The partition's first millisecond and that of the next."""


class UnusableRowError(ValueError):
    """A row that no job can be made of."""


def found_job(account: str, job_id: str, landed: LandedRow, used: Collection[str], now: int) -> FoundJob:
    """Return the job as the tables show it; ``used`` are the tables that the account lands.

    A job that a table shows as ended, but whose full row is in none, is returned as pending: Akool is asked again.
    Raises `UnusableRowError`, or `InvalidJobError`, for rows that say nothing usable.
    """
    if normalise_job_id(job_id) != job_id:
        raise UnusableRowError(f"{job_id!r} is not written as the ledger keys it")
    job = _watched(account, job_id, landed, now)
    lacks_row = has_ended(landed.rows) and bool(lacking(landed.rows, used))
    if lacks_row:
        job = replace(job, state=JobState.PENDING)  # whatever an older table says
    elif has_ended(landed.rows):
        job = _ended(job, landed, now)
    _refuse_unstorable(job)
    return FoundJob(
        job=job,
        revision=max(landed.revisions[table] for table in landed.rows),
        is_whole=RESULTS.name in landed.rows,
        lacks_row=lacks_row,
        window=(landed.start, landed.end),
    )


def has_ended(rows: Mapping[str, Values]) -> bool:
    """Return whether any table shows the job's end."""
    if rows.keys() & {RESULTS.name, CREDITS.name, DURATIONS.name, VIDEOS.name}:
        return True
    return rows[STATUSES.name]["state"] in FINAL_STATES


def lacking(rows: Mapping[str, Values], used: Collection[str]) -> set[str]:
    """Return which tables that hold what Akool sent do not have an ended job: without them it would land empty."""
    if RESULTS.name in used:
        return {RESULTS.name} - rows.keys()
    needed = {CREDITS.name, DURATIONS.name} & set(used)
    if _status(rows) == STATUS_NUMBERS["completed"]:
        needed |= {VIDEOS.name} & set(used)  # only the manifest has its URL
    return needed - rows.keys()


def _refuse_unstorable(job: Job) -> None:
    """Raise for text that a ledger cannot hold: in JSON even an escape makes it."""
    for field in fields(job):
        value = getattr(job, field.name)
        if isinstance(value, str) and UNSTORABLE_TEXT.search(value):
            raise UnusableRowError(f"its {field.name} has a NUL or a lone surrogate, which no database holds")


def _watched(account: str, job_id: str, landed: LandedRow, now: int) -> Job:
    """Return the job as it was before its end, if it had one: due now."""
    status_row = landed.rows.get(STATUSES.name, {})
    tracked_at = status_row.get("tracked_at")
    labels = _newest(landed, "labels")
    blank: dict[str, Any] = dict.fromkeys(field.name for field in fields(Job))
    row = new_job_row(account, job_id, _labels(job_id, labels), now, 0)
    job = Job(**(blank | row | {"partition_at": _partition_at(job_id, tracked_at, landed)}))
    job = replace(
        job,
        tracked_at=job.partition_at if tracked_at is None else tracked_at,
        status=status_row.get("status"),
        queueing_seen_at=status_row.get("queueing_seen_at"),
        processing_seen_at=status_row.get("processing_seen_at"),
    )
    state = status_row.get("state", JobState.PENDING)
    if state not in set(JobState):
        raise UnusableRowError(f"its state is {state!r}")
    return job if state in FINAL_STATES else replace(job, state=JobState(state))


def _ended(job: Job, landed: LandedRow, now: int) -> Job:
    """Let the job end as it did: with the answer that its rows were made of, at the moment it was seen."""
    rows = landed.rows
    sent = _sent(job.job_id, landed)
    settled_at = _settled_at(landed, sent)
    queueing, processing = _seen_at(rows, settled_at)
    watched = replace(job, state=JobState.PENDING, queueing_seen_at=queueing, processing_seen_at=processing)
    answer = observation_of(sent, settled_at)
    ended = observe(watched, answer, settled_at, lambda _watched: 0, Limits(urlless_polls=0))
    if ended.state == JobState.FAILED:
        reason = rows.get(STATUSES.name, {}).get("failure_reason", ended.failure_reason)
        return replace(ended, failure_reason=reason)
    if VIDEOS.name in rows:
        return _with_video(ended, rows[VIDEOS.name], now)
    return replace(ended, video_next_at=now)


def _sent(job_id: str, landed: LandedRow) -> ResultRow:
    """Return what Akool sent, from the columns that carry it."""
    rows = landed.rows
    values: dict[str, Any] = {}
    video_row = {
        "video_url": rows.get(VIDEOS.name, {}).get("source_url"),
        "video_duration": rows.get(VIDEOS.name, {}).get("reported_duration"),
    }
    for row in (video_row, *(rows.get(table.name, {}) for table in (DURATIONS, CREDITS, RESULTS))):
        values |= {name: value for name, value in row.items() if name in SENT_FIELDS and value is not None}
    if landed.revisions.get(VIDEOS.name, 0) > landed.revisions.get(RESULTS.name, 0) and video_row["video_url"]:
        values["video_url"] = video_row["video_url"]  # Akool gave a newer one since
    extra = _object(rows.get(RESULTS.name, {}).get("extra") or "{}", "extra")
    # Not validated: it was when it came from Akool, and redacting it again could change it.
    return ResultRow.model_construct(**(values | {"_id": job_id, "status": _status(rows), "extra": extra}))


def _status(rows: Mapping[str, Values]) -> int:
    for table in (RESULTS, CREDITS):
        status = rows.get(table.name, {}).get("status")
        if status is not None:
            if status not in STATUS_NUMBERS.values():
                raise UnusableRowError(f"{table.name} shows it with status {status}, which ends no job")
            return int(status)
    if VIDEOS.name in rows:
        return STATUS_NUMBERS["completed"]
    label = rows.get(DURATIONS.name, {}).get("status_label") or rows.get(STATUSES.name, {}).get("state")
    if label not in STATUS_NUMBERS:
        raise UnusableRowError(f"its end is shown as {label!r}")
    return STATUS_NUMBERS[label]


def _settled_at(landed: LandedRow, sent: ResultRow) -> int:
    """Return when polling saw the end: from the tables that say so, else as ``durations`` and the times imply."""
    rows = landed.rows
    shown = _first(rows.get(table.name, {}).get("settled_at") for table in (STATUSES, RESULTS))
    if shown is not None:
        return shown
    if sent.update_time is not None:
        unnoticed = rows.get(DURATIONS.name, {}).get("detection_seconds")
        # Without a span it was negative: the end was seen before Akool's clock said that it came.
        return sent.update_time - 1 if unnoticed is None else sent.update_time + round(unnoticed * 1000)
    return _first((rows.get(VIDEOS.name, {}).get("downloaded_at"), sent.create_time, landed.start)) or 0


def _seen_at(rows: Mapping[str, Values], settled_at: int) -> tuple[int | None, int | None]:
    """Return when polling first saw the job queueing and processing: shown, or as the spans before the end imply."""
    if STATUSES.name in rows:
        return rows[STATUSES.name].get("queueing_seen_at"), rows[STATUSES.name].get("processing_seen_at")
    spans = rows.get(DURATIONS.name, {})
    processing, queue_seconds = _before(settled_at, spans.get("processing_seconds")), spans.get("queue_seconds")
    if processing is None and queue_seconds is not None:
        processing = settled_at + 1  # a clock was set back in between: the span shows as null again
    return _before(processing, queue_seconds), processing


def _with_video(job: Job, row: Values, now: int) -> Job:
    state = row.get("video_state")
    if state not in set(VideoState):
        raise UnusableRowError(f"its video's state is {state!r}")
    record = {name: row.get(name) for name in FILE_FACTS}
    return replace(
        job,
        video_state=VideoState(state),
        video_attempts=row.get("attempts") or 0,
        video_next_at=now if state == VideoState.PENDING else None,
        video_expires_at=row.get("expires_at"),
        video_error=row.get("error"),
        video_record=json_text(record) if record["path"] is not None else None,
    )


def _partition_at(job_id: str, tracked_at: int | None, landed: LandedRow) -> int:
    created_ms = int(job_id[:8], 16) * 1000 if OBJECT_ID_PATTERN.fullmatch(job_id) else None
    for moment in (created_ms, tracked_at):
        if moment is not None and landed.start <= moment < landed.end:
            return moment
    return landed.start


def _newest(landed: LandedRow, name: str) -> Any:
    """Return a value from the table that landed last of those that have it."""
    tables = sorted(landed.rows, key=lambda table: landed.revisions[table])
    values = [landed.rows[table].get(name) for table in tables]
    return next((value for value in reversed(values) if value is not None), None)


def _labels(job_id: str, text: str | None) -> dict[str, str]:
    labels = _object(text or "{}", "labels")
    if not all(isinstance(value, str) for value in labels.values()):
        raise UnusableRowError("its labels are no map of strings")
    check_labels(job_id, labels)
    return labels


def _object(text: str, column: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UnusableRowError(f"its {column} are no JSON object")
    return value


def _before(moment: int | None, seconds: float | None) -> int | None:
    return None if moment is None or seconds is None else moment - round(seconds * 1000)


def _first(values: Iterable[int | None]) -> int | None:
    return next((value for value in values if value is not None), None)
