"""Rows of tables and ledgers full of jobs, for tests of landing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from akool_dagster.ledger import AccountLedger, Answered, Job, JobLedger, JobState, TrackRequest
from akool_dagster.ledger.schema import jobs
from akool_dagster.ledger.transitions import Polling
from akool_dagster.tables import TableSpec
from tests.clock import FakeClock

ACCOUNT = "akool"
DAY = "2025-10-09"
DAY_START = 1_759_968_000_000
CREATED = DAY_START + 3_600_000
RELATIVE = f"{ACCOUNT}/results/{DAY}.parquet"


def job_id(number: int) -> str:
    """Return an id that Akool could have given on the day."""
    return f"{CREATED // 1000:08x}{number:016x}"


def a_job(identifier: str, **values: Any) -> Job:
    """Return a pending job nobody has polled yet, but for what is given."""
    untouched: dict[str, Any] = dict.fromkeys(field.name for field in fields(Job))
    for name in ("polls", "misses", "urlless_polls", "video_attempts", "video_refusals"):
        untouched[name] = 0
    usual = {
        "account": ACCOUNT,
        "job_id": identifier,
        "partition_at": CREATED,
        "tracked_at": CREATED + 1000,
        "watched_since": CREATED + 1000,
        "labels": "{}",
        "state": JobState.PENDING,
        "next_poll_at": CREATED + 1000,
        "version": 1,
    }
    return Job(**{**untouched, **usual, **values})


def fill(ledger: Path, content: Iterable[Job]) -> None:
    """Put exactly these jobs into the ledger's file, as they are."""
    engine = sa.create_engine(f"sqlite:///{ledger}")
    with engine.begin() as connection:
        connection.execute(sa.delete(jobs))
        for job in content:
            connection.execute(sa.insert(jobs).values(asdict(job)))
    engine.dispose()


def settle(ledger: AccountLedger, clock: FakeClock, *ids: str, status: int = 3) -> None:
    """Track these ids and record Akool's answer that they ended."""
    ledger.track([TrackRequest(job_id=one) for one in ids])
    answers = [
        Answered(
            job_id=one,
            status=status,
            payload=f'{{"_id":"{one}","status":{status},"deduction_credit":20.0,"video_url":"https://cdn.example/1"}}',
            has_video_url=True,
            video_expires_at=clock.now_ms() + 7 * 86_400_000,
        )
        for one in ids
    ]
    ledger.polling.record(answers, Polling(next_poll_delay_ms=lambda age: 5000, ids_per_request=50))


def table_of(spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table of a spec; what they lack is null."""
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["_id"])), schema=spec.schema)


def create_ledger(folder: Path, clock: FakeClock | None = None) -> JobLedger:
    return JobLedger.create(f"sqlite:///{folder}/ledger.sqlite", clock=clock)
