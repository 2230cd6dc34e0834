"""Ledgers, tables that landed from them, and what is read back, for the tests of the operator's commands."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akool_dagster.api.models import ResultRow
from akool_dagster.base.partitions import Granularity
from akool_dagster.ledger import AccountLedger, Answered, Job, JobLedger, Observation, Polling, TrackRequest
from akool_dagster.operations.adopt import AdoptionReport, adopt, plan_adoption
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.operations.partitions import partition_key, window_of
from akool_dagster.storage import StorageRoot
from akool_dagster.tables import TABLES
from tests.clock import FakeClock
from tests.landed_tables import land_partition

ALL = tuple(TABLES)
NOW = FakeClock().now_ms()
HOUR = 3_600_000
DAY = 24 * HOUR
OLD = (NOW - 40 * DAY) // DAY * DAY + 5 * HOUR
OLD_DAY = datetime.fromtimestamp(OLD / 1000, UTC).date().isoformat()
A, B, C, D = (f"{OLD // 1000:08x}{number:016x}" for number in (1, 2, 3, 4))
"""Ids of jobs of the old day."""
POLLING = Polling(next_poll_delay_ms=lambda _age: 5000, ids_per_request=50)

Row = dict[str, Any]

_TYPES = {field.name: field.type for table in TABLES.values() for field in table.schema}


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


def live(
    ledger: JobLedger,
    root: StorageRoot,
    *,
    stored: Sequence[str] = (),
    failed: Sequence[str] = (),
    waiting: Sequence[str] = (),
    processing: Sequence[str] = (),
    **labels: str,
) -> JobLedger:
    """Track jobs, let them come to different ends, and land them. ``waiting``: completed, the video still pending."""
    account = ledger.account("akool")
    account.landings.settle_granularity("daily")
    track(account, *stored, *failed, *waiting, *processing, **labels)
    record(account, *(answered(job_id, 2) for job_id in (*stored, *failed, *waiting, *processing)))
    record(account, *(answered(job_id, 3) for job_id in (*stored, *waiting)))
    record(account, *(answered(job_id, 4, error_reason="no face") for job_id in failed))
    for job_id in stored:
        store(account, root, job_id)
    land(account, root)
    return ledger


def jobs_of(account: AccountLedger) -> dict[str, Job]:
    return {job.job_id: job for job in account.jobs()}


def land(account: AccountLedger, root: StorageRoot, tables: Collection[str] = ALL) -> None:
    """Land every partition that the ledger has rows of, as the assets do."""
    granularity = account.landings.granularity() or Granularity.DAILY
    landing = [job for job in account.jobs() if not job.is_tombstone and job.state != "forgotten"]
    version = max((job.version for job in landing), default=0)
    for window in {window_of(job.partition_at, granularity) for job in landing}:
        key = partition_key(window)
        land_partition(account, Path(root.uri()), key, tables=tables, granularity=Granularity(granularity))
        for table in tables:
            kind = "videos" if table == "videos" else "tables"
            account.leases.take(kind, key, "a run")
            account.landings.record_landed(kind, key, "a run", window[0], table, version)
            account.leases.release(kind, key, "a run")
    account.landings.set_enabled_assets(sorted(tables))


def write_rows(root: StorageRoot, account: str, table: str, key: str, rows: Iterable[Row]) -> Path:
    """Write a table's file, with the columns that the rows have."""
    rows = list(rows)
    names = dict.fromkeys(name for row in rows or [{"_id": ""}] for name in row)
    path = Path(root.uri(), account, table, f"{key}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema([(name, _TYPES[name]) for name in names])), path)
    return path


def read_rows(root: StorageRoot, account: str, table: str, key: str = "*") -> list[Row]:
    """Return the rows of a table's file, or of all; times in milliseconds."""
    rows: list[Row] = []
    for file in sorted(Path(root.uri(), account, table).glob(f"{key}.parquet")):
        read = pq.read_table(file)
        for index, column in enumerate(read.schema):
            if pa.types.is_timestamp(column.type):
                read = read.set_column(index, column.name, read.column(index).cast(pa.int64()))
        rows += read.to_pylist()
    return rows


def adopted(account: AccountLedger, root: StorageRoot, clock: FakeClock) -> AdoptionReport:
    return adopt(account, root, plan_adoption(account, root), clock=clock)


def problems(findings: list[Finding]) -> str:
    return " ".join(finding.what for finding in findings if finding.level == Level.PROBLEM)


def notices(findings: list[Finding]) -> str:
    return " ".join(finding.what for finding in findings if finding.level == Level.NOTICE)
