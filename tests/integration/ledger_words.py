"""The words that the ledger's tests are written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import sqlalchemy as sa

from akool_dagster.ledger import Answered, Job, JobLedger, Missed, Observation, RecordReport, TrackReport, TrackRequest
from tests.clock import FakeClock

ACCOUNT = "akool"
NOW = FakeClock().now_ms()
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
POLL_EVERY = 5_000


def nth(number: int) -> int:
    """Return what the ledger's nth revision is while its clock stands still; before the first it is 0."""
    return NOW + number - 1 if number else 0


def execute(url: str, *statements: str) -> None:
    """Change a ledger behind its back."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sa.text(statement))


def object_id(created_ms: int, number: int = 0) -> str:
    """Return an id of Akool's shape, made at a moment (whole seconds)."""
    return f"{created_ms // 1000:08x}{number:016x}"


def track(ledger: JobLedger, *ids: str, labels: Mapping[str, str] | None = None, again: bool = False) -> TrackReport:
    """Track ids of the account, all with the same labels."""
    return ledger.track(ACCOUNT, [TrackRequest(job_id=job_id, labels=labels or {}) for job_id in ids], again=again)


def record(ledger: JobLedger, *observations: Observation) -> RecordReport:
    """Record observations; every job is looked at again five seconds later."""
    return ledger.record(ACCOUNT, observations, lambda age_ms: POLL_EVERY)


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


def complete(ledger: JobLedger, *ids: str) -> None:
    """Track ids and let Akool answer that they completed."""
    track(ledger, *ids)
    record(ledger, *(answered(job_id, 3) for job_id in ids))


def lose(ledger: JobLedger, clock: FakeClock, job_id: str, code: int | None = None) -> None:
    """Let a tracked job go missing, or be refused with a content code until it counts as missing."""
    for _ in range(5):
        clock.advance(150)
        record(ledger, Missed(job_id=job_id, code=code))


def job_of(ledger: JobLedger, job_id: str) -> Job:
    """Return a job as the ledger has it."""
    return {job.job_id: job for job in ledger.iter_jobs(ACCOUNT)}[job_id]


def claimed_ids(ledger: JobLedger, limit: int = 100) -> list[str]:
    """Claim what is due and return the ids in order."""
    return [job.job_id for job in ledger.claim(ACCOUNT, limit)]


def expiring(job_id: str, expires_at: int) -> Answered:
    """Return a completed row whose video's URL dies at a moment."""
    return replace(answered(job_id, 3), video_expires_at=expires_at)
