"""What the ledger's tests do to one account of a ledger, in one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger import (
    AccountLedger,
    Answered,
    Job,
    Missed,
    Observation,
    Polling,
    RecordReport,
    TrackReport,
    TrackRequest,
    VideoState,
)
from akool_dagster.ledger.records import DirtyPartition, VideoFailure
from tests.clock import FakeClock

SQLITE_ONLY = pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)
"""For what is decided in Python: the same test on PostgreSQL would show nothing new."""
POSTGRESQL_ONLY = pytest.mark.parametrize("new_database", ["postgresql"], indirect=True)
ACCOUNT = "akool"
NOW = FakeClock().now_ms()
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
THIS_HOUR = NOW - NOW % HOUR
TODAY = NOW - NOW % DAY
TABLES = ("results", "credits", "durations", "statuses")
POLL_EVERY = 5_000
POLLING = Polling(next_poll_delay_ms=lambda watched_ms: POLL_EVERY, ids_per_request=50)


def execute(url: str, *statements: str) -> None:
    """Change a ledger's database directly."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def object_id(created_ms: int, number: int = 0) -> str:
    """Return an id of Akool's shape, made at a time (whole seconds)."""
    return f"{created_ms // 1000:08x}{number:016x}"


def track(
    account: AccountLedger, *ids: str, labels: Mapping[str, str] | None = None, again: bool = False
) -> TrackReport:
    """Track ids, all with the same labels."""
    return account.track([TrackRequest(job_id=job_id, labels=labels or {}) for job_id in ids], again=again)


def record(account: AccountLedger, *observations: Observation) -> RecordReport:
    """Record observations; every job is polled again five seconds later."""
    return account.polling.record(observations, POLLING)


def answered(
    job_id: str, status: int | None, *, url: bool = True, payload: str | None = None, reason: str | None = None
) -> Answered:
    """Return what a row says; with a status 3 it has a usable URL unless told otherwise."""
    return Answered(
        job_id=job_id,
        status=status,
        payload=payload or f'{{"_id":"{job_id}","status":{status or "null"}}}',
        has_video_url=url and status == 3,
        video_expires_at=NOW + 7 * DAY,
        failure_reason=reason,
    )


def expiring(job_id: str, expires_at: int) -> Answered:
    """Return a completed row whose video's URL dies at a time."""
    return replace(answered(job_id, 3), video_expires_at=expires_at)


def complete(account: AccountLedger, *ids: str) -> None:
    """Track ids and record that they completed."""
    track(account, *ids)
    record(account, *(answered(job_id, 3) for job_id in ids))


def go_missing(account: AccountLedger, clock: FakeClock, job_id: str, code: int | None = None) -> None:
    """Record misses of a job, or refusals with a content code, until it is missing."""
    for _ in range(5):
        clock.advance(150)
        record(account, Missed(job_id=job_id, code=code))


def abandon(account: AccountLedger, clock: FakeClock, job_id: str) -> None:
    """Record two polls past the job's give-up age."""
    clock.advance(7 * DAY / 1000)
    record(account, answered(job_id, 1))
    record(account, answered(job_id, 1))


def fail(account: AccountLedger, job_id: str, state: VideoState = VideoState.LOST, **fields: Any) -> None:
    """Record a failed download."""
    account.videos.fail(VideoFailure(job_id=job_id, error="404", state=state, **fields))


def job_of(account: AccountLedger, job_id: str) -> Job:
    """Return a job as the ledger has it."""
    return {job.job_id: job for job in account.jobs()}[job_id]


def states(account: AccountLedger) -> dict[str, str]:
    """Return the state of every job."""
    return {job.job_id: job.state for job in account.jobs()}


def claimed_ids(account: AccountLedger, limit: int = 100) -> list[str]:
    """Claim what is due and return the ids in order."""
    return [job.job_id for job in account.polling.claim(limit)]


def dirty_hours(account: AccountLedger) -> dict[int, tuple[int, int]]:
    """Return the versions of tables and of videos of each hour that has not landed."""
    return {one.partition_at: (one.tables_version, one.videos_version) for one in dirty(account, HOUR)}


def dirty(account: AccountLedger, partition_ms: int = DAY) -> list[DirtyPartition]:
    """Return the dirty partitions, with every asset enabled."""
    return account.landings.dirty(partition_ms, TABLES, videos=True)


def land(account: AccountLedger, key: str, start: int, end: int) -> None:
    """Let every asset have landed what the ledger has of a partition."""
    with account.landings.snapshot(start, end) as shot:
        versions = {"tables": shot.tables_version, "videos": shot.videos_version}
    for kind, assets in (("tables", TABLES), ("videos", ("videos",))):
        with account.leases.acquire(kind, key, "run"):
            for asset in assets:
                account.landings.record_landed(kind, key, "run", start, asset, versions[kind])


def rows_of(account: AccountLedger, start: int = 0, end: int = 2**62, *columns: str) -> list[tuple[Any, ...]]:
    """Return what a snapshot shows of a partition."""
    with account.landings.snapshot(start, end) as shot:
        batches = shot.batches(columns or ("job_id",), 100)
        return [tuple(row) for batch in batches for row in batch]


Work = Callable[[AccountLedger], object]
WRITES: dict[str, Work] = {
    "record": lambda account: record(account, answered("b", 3), answered("a", 3)),
    "track": lambda account: track(account, "c", "new", "b", "a", labels={"k": "v"}),
    "store a video": lambda account: account.videos.store("c", {"path": "c.mp4"}),
    "look for files": lambda account: account.videos.reopen(["c", "a"]),
    "release": lambda account: account.polling.release({"b": NOW, "a": NOW}),
    "set a call size": lambda account: account.polling.set_call_size(["b", "a"], 4),
    "prune": lambda account: account.pruning.prune(["d", "c"], END_OF_TIME),
    "forget": lambda account: account.pruning.forget(["d", "b", "a"]),
}
"""What locks jobs. Each names them in an order of its own."""
