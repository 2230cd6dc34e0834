"""A job of the ledger, as the rows that landed show it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from akool_dagster.base.job_ids import OBJECT_ID_PATTERN
from akool_dagster.ledger.adoption import FoundJob
from akool_dagster.ledger.records import FINAL_STATES, Job, JobState, VideoState, check_labels, normalise_job_id
from akool_dagster.ledger.rows import json_text, new_job_row
from akool_dagster.ledger.transitions import DAY_MS
from akool_dagster.operations.landed_rows import Row
from akool_dagster.operations.partitions import Window

_NOT_SENT = frozenset({"partition_time", "status_label", "labels", "settled_at", "version", "extra"})
"""The columns of ``results`` that Akool did not send as they are. ``extra`` is JSON text."""
_NOT_OF_THE_FILE = frozenset(
    {"_id", "partition_time", "video_state", "reported_duration", "source_url", "expires_at", "attempts", "error"}
    | {"version"}
)
"""The columns of ``videos`` that say nothing of the stored file."""
_STATUSES = {JobState.COMPLETED: 3, JobState.FAILED: 4}
_URL_LIFETIME_MS = 7 * DAY_MS
_NOTHING: Row = {}


class UnusableRowError(ValueError):
    """A row that no job can be made of."""


def found_job(
    account: str,
    job_id: str,
    rows: Mapping[str, Row],
    home: Window,
    used: Collection[str],
    now: int,
    also: Sequence[Window] = (),
) -> FoundJob:
    """Return the job that a partition's rows show.

    ``rows``: the job's row by table. ``home``: the partition. ``used``: the tables that the account lands. ``also``:
    other partitions that have a row of the job. A job that ended without a row in ``results`` is to be polled again,
    unless the tables have all of it. Raises `UnusableRowError`, or `InvalidJobError`, for rows that say nothing usable.
    """
    if normalise_job_id(job_id) != job_id:
        raise UnusableRowError(f"{job_id!r} is not written as the ledger keys it")
    end = shown_end(rows)
    status_row = rows.get("statuses", _NOTHING)
    is_settled = end is not None and _is_settled(end, rows, used)
    values = new_job_row(account, job_id, _labels(job_id, rows), now, 0) | {
        "partition_at": _partition_at(job_id, status_row.get("tracked_at"), home),
        "tracked_at": _or(status_row.get("tracked_at"), now),
        "status": status_row.get("status"),
        "failure_reason": _storable(status_row.get("failure_reason")),
        "queueing_seen_at": status_row.get("queueing_seen_at"),
        "processing_seen_at": status_row.get("processing_seen_at"),
    }
    if end is not None and (is_settled or "results" in rows):
        values |= _ended(job_id, end, rows, home)
    settled_at = _or(status_row.get("settled_at"), rows.get("results", _NOTHING).get("settled_at"))
    return FoundJob(
        job=Job(**values),
        start=home[0],
        end=home[1],
        also=also,
        ended=None if end is None or settled_at is None else (end, settled_at),
        is_settled=is_settled,
    )


def shown_end(rows: Mapping[str, Row]) -> JobState | None:
    """Return how the job ended, as any of its rows shows; None while it has not."""
    if "videos" in rows:
        return JobState.COMPLETED
    shown = [rows[table].get("status_label") for table in ("results", "credits", "durations") if table in rows]
    label = next(iter(shown), rows.get("statuses", _NOTHING).get("state"))
    if shown and label not in FINAL_STATES:
        raise UnusableRowError(f"its end is shown as {label!r}")
    return JobState(label) if label in FINAL_STATES else None


def _is_settled(end: JobState, rows: Mapping[str, Row], used: Collection[str]) -> bool:
    """Return whether every table has the job's row, and its video is settled."""
    if end == JobState.FAILED:
        return rows.keys() >= set(used) - {"videos"}
    video_state = rows.get("videos", _NOTHING).get("video_state")
    return rows.keys() >= set(used) and video_state in (VideoState.STORED, VideoState.LOST)


def _ended(job_id: str, end: JobState, rows: Mapping[str, Row], home: Window) -> dict[str, Any]:
    """Return the columns of a job that ended."""
    sent, status_row, spans = (rows.get(table, _NOTHING) for table in ("results", "statuses", "durations"))
    video = rows.get("videos", _NOTHING)
    settled_at = _or(sent.get("settled_at"), status_row.get("settled_at"), sent.get("update_time"), home[0])
    # Without `statuses`, the spans tell when polling saw the job.
    processing = _or(status_row.get("processing_seen_at"), _before(settled_at, spans.get("processing_seconds")))
    queueing = _or(status_row.get("queueing_seen_at"), _before(processing, spans.get("queue_seconds")))
    values: dict[str, Any] = {
        "state": end,
        "status": _STATUSES[end],
        "settled_at": settled_at,
        "processing_seen_at": processing,
        "queueing_seen_at": queueing,
        "payload": _payload(job_id, sent, video) if sent else None,
    }
    if end == JobState.FAILED:
        return values
    state = video.get("video_state") or VideoState.PENDING
    if state not in set(VideoState):
        raise UnusableRowError(f"its video_state is {state!r}")
    record = {name: value for name, value in video.items() if name not in _NOT_OF_THE_FILE}
    times = [time for time in (sent.get("create_time"), sent.get("update_time")) if time is not None]
    dies_at = min(max(times, default=settled_at), settled_at) + _URL_LIFETIME_MS
    return values | {
        "video_state": state,
        "video_attempts": video.get("attempts") or 0,
        "video_next_at": settled_at if state == VideoState.PENDING else None,
        "video_expires_at": _or(video.get("expires_at"), dies_at),
        "video_error": _storable(video.get("error")),
        "video_record": json_text(record) if record.get("path") else None,
    }


def _payload(job_id: str, sent: Row, video: Row) -> str:
    """Return what Akool sent, from the columns that carry it."""
    values = {name: value for name, value in sent.items() if value is not None and name not in _NOT_SENT}
    if video.get("source_url") and (video.get("version") or 0) > (sent.get("version") or 0):
        values["video_url"] = video["source_url"]  # Akool gave a newer one since
    extra = _object(sent.get("extra") or "{}", "extra")
    return json.dumps(
        values | {"_id": job_id} | ({"extra": extra} if extra else {}), ensure_ascii=False, separators=(",", ":")
    )


def _partition_at(job_id: str, tracked_at: int | None, home: Window) -> int:
    created_ms = int(job_id[:8], 16) * 1000 if OBJECT_ID_PATTERN.fullmatch(job_id) else None
    inside = (at for at in (created_ms, tracked_at) if at is not None and home[0] <= at < home[1])
    return next(inside, home[0])


def _labels(job_id: str, rows: Mapping[str, Row]) -> dict[str, str]:
    shown = [row for row in rows.values() if row.get("labels")]
    newest = max(shown, key=lambda row: row.get("version") or 0, default=_NOTHING)
    labels = _object(newest.get("labels") or "{}", "labels")
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


def _storable(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "")


def _before(time: int | None, seconds: float | None) -> int | None:
    return None if time is None or seconds is None else time - round(seconds * 1000)


def _or(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
