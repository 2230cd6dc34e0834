"""Ledgers, and tables that landed from them, for the tests of the operator's commands.

The tables are written by hand: one row a job and table, the greater ``(ended, version)`` stays, as a landing merges.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akool_dagster.api.models import ResultRow
from akool_dagster.ledger import AccountLedger, Answered, Job, Observation, Polling, TrackRequest
from akool_dagster.operations.adopt import AdoptionReport, adopt, plan_adoption
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.partitions import partition_key, window_of
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock

ALL = ("results", "credits", "durations", "statuses", "videos")
NOW = FakeClock().now_ms()
HOUR = 3_600_000
DAY = 24 * HOUR
OLD = (NOW - 40 * DAY) // DAY * DAY + 5 * HOUR
OLD_DAY = datetime.fromtimestamp(OLD / 1000, UTC).date().isoformat()
POLLING = Polling(next_poll_delay_ms=lambda _age: 5000, ids_per_request=50)

Row = dict[str, Any]

_TIME = pa.timestamp("ms", tz="UTC")
_TIMES = frozenset(
    {"create_time", "update_time", "settled_at", "tracked_at", "queueing_seen_at", "processing_seen_at"}
    | {"downloaded_at", "expires_at", "partition_time"}
)
_NUMBERS = frozenset({"status", "version", "bytes", "attempts", "frames"})
_SPANS = frozenset({"video_duration", "deduction_credit", "queue_seconds", "processing_seconds", "detection_seconds"})
SENT = ("create_time", "update_time", "video_duration", "deduction_credit", "prompt", "team_id", "video_url")


def object_id(created_ms: int, number: int = 0) -> str:
    """Return an id of Akool's shape, made at a time (whole seconds)."""
    return f"{created_ms // 1000:08x}{number:016x}"


def answered(job_id: str, status: int | None, settled_ms: int = NOW, **fields: object) -> Answered:
    """Return what Akool's row says of a job."""
    raw = {"_id": job_id, "status": status, "create_time": OLD, "update_time": OLD + HOUR, "deduction_credit": 20}
    if status == 3:
        raw["video_url"] = f"https://cdn.example/{job_id}.mp4?Signature=kept"
    row = ResultRow.model_validate(raw | fields)
    return Answered(
        job_id=job_id,
        status=row.status,
        payload=row.to_payload(),
        has_video_url=row.has_usable_video_url,
        video_expires_at=row.expires_ms(settled_ms),
        failure_reason=row.failure_reason,
    )


def track(account: AccountLedger, *ids: str, **labels: str) -> None:
    account.track(TrackRequest(job_id=job_id, labels=labels) for job_id in ids)


def record(account: AccountLedger, *seen: Observation) -> None:
    account.polling.record(seen, POLLING)


def store(account: AccountLedger, root: StorageRoot, job_id: str, day: str = OLD_DAY) -> Path:
    """Record a stored video, with its file."""
    relative = f"{account.name}/videos/{day}/{job_id}.mp4"
    path = Path(root.uri(), relative)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"film")
    account.videos.store(job_id, {"path": relative, "bytes": 4, "sha256": "ab", "frames": 1, "downloaded_at": NOW})
    return path


def jobs_of(account: AccountLedger) -> dict[str, Job]:
    return {job.job_id: job for job in account.jobs()}


def land(account: AccountLedger, root: StorageRoot, tables: Collection[str] = ALL) -> None:
    """Land every partition that the ledger has rows of, merged with what is there."""
    granularity = account.landings.granularity()
    fresh: dict[tuple[str, str, int], dict[str, Row]] = {}
    highest = max((job.version for job in account.jobs()), default=0)
    for job in account.jobs():
        if not job.is_tombstone and job.state != "forgotten":
            start, end = window_of(job.partition_at, granularity)
            for table, row in rows_of_job(job, start).items():
                key = partition_key((start, end)).replace(":", "")
                fresh.setdefault((table, key, start), {})[job.job_id] = row
    for (table, key, start), rows in fresh.items():
        if table in tables:
            there = {row["_id"]: row for row in read_rows(root, account.name, table, key)}
            merged = [_greater(table, rows.get(job_id), there.get(job_id)) for job_id in sorted(rows.keys() | there)]
            write_rows(root, account.name, table, key, merged)
            _record_landed(account, table, partition_key(window_of(start, granularity)), start, highest)
    account.landings.set_enabled_assets(sorted(tables))


def _record_landed(account: AccountLedger, table: str, key: str, start: int, version: int) -> None:
    kind = "videos" if table == "videos" else "tables"
    account.leases.take(kind, key, "a run")
    account.landings.record_landed(kind, key, "a run", start, table, version)
    account.leases.release(kind, key, "a run")


def _greater(table: str, row: Row | None, other: Row | None) -> Row:
    def rank(one: Row | None) -> tuple[int, int]:
        if one is None:
            return -1, -1
        state = one.get("video_state")
        ended = {"stored": 2, "unverified": 1}.get(state or "", 0)
        is_ended = one.get("state") in ("completed", "failed") or table in ("results", "credits", "durations")
        return ended if table == "videos" else int(is_ended), one["version"]

    return max((row, other), key=rank) or {}


def rows_of_job(job: Job, start: int) -> dict[str, Row]:
    """Return the job's row of every table that has one."""
    payload = json.loads(job.payload or "{}")
    sent = {name: payload.get(name) for name in SENT}
    base = {"_id": job.job_id, "partition_time": start, "version": job.version}
    status = {"status": job.status, "status_label": {3: "completed", 4: "failed"}.get(job.status or 0, "queueing")}
    rows: dict[str, Row] = {
        "statuses": base
        | status
        | {"state": job.state, "tracked_at": job.tracked_at, "settled_at": job.settled_at, "labels": job.labels}
        | {"queueing_seen_at": job.queueing_seen_at, "processing_seen_at": job.processing_seen_at}
        | {"failure_reason": job.failure_reason}
    }
    if job.settled_at is not None:
        extra = json.dumps(payload.get("extra", {}))
        rows["results"] = base | status | sent | {"extra": extra, "labels": job.labels, "settled_at": job.settled_at}
        rows["credits"] = base | status | {"deduction_credit": sent["deduction_credit"], "labels": job.labels}
        rows["durations"] = base | {
            "status_label": status["status_label"],
            "queue_seconds": _span(job.queueing_seen_at, job.processing_seen_at),
            "processing_seconds": _span(job.processing_seen_at, job.settled_at),
        }
    if job.video_state is not None:
        file = json.loads(job.video_record or "{}")
        facts = {name: file.get(name) for name in ("path", "bytes", "sha256", "frames", "downloaded_at")}
        rows["videos"] = base | {"video_state": job.video_state} | facts
        rows["videos"] |= {"source_url": sent["video_url"], "expires_at": job.video_expires_at}
        rows["videos"] |= {"attempts": job.video_attempts, "error": job.video_error}
    return rows


def _span(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None or end < start else (end - start) / 1000


def write_rows(root: StorageRoot, account: str, table: str, key: str, rows: list[Row]) -> Path:
    """Write a table's file."""
    names = list(dict.fromkeys(name for row in rows for name in row if name != "version"))
    schema = pa.schema([(name, _type(name)) for name in [*names, "version"]])
    path = Path(root.uri(), account, table, f"{key}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def _type(name: str) -> pa.DataType:
    if name in _TIMES:
        return _TIME
    return pa.int64() if name in _NUMBERS else pa.float64() if name in _SPANS else pa.string()


def read_rows(root: StorageRoot, account: str, table: str, key: str = "*") -> list[Row]:
    """Return the rows of a table's file, or of all; times in milliseconds."""
    rows: list[Row] = []
    for file in sorted(Path(root.uri(), account, table).glob(f"{key}.parquet")):
        read = pq.read_table(file)
        for name in _TIMES & set(read.schema.names):
            index = read.schema.get_field_index(name)
            read = read.set_column(index, name, read.column(name).cast(_TIME).cast(pa.int64()))
        rows += read.to_pylist()
    return rows


def adopted(account: AccountLedger, root: StorageRoot, clock: FakeClock) -> AdoptionReport:
    return adopt(account, root, plan_adoption(account, root), clock=clock)


def problems(findings: list[Finding]) -> str:
    return " ".join(finding.what for finding in findings if finding.level == Level.PROBLEM)


def notices(findings: list[Finding]) -> str:
    return " ".join(finding.what for finding in findings if finding.level == Level.NOTICE)
