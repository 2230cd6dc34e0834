"""What became of an account's videos."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.errors import JobForgottenError
from akool_dagster.ledger.records import DueVideo, DueVideos, Job, JobState, VideoFailure, VideoState
from akool_dagster.ledger.rows import ask_for_landing, chunks, json_text, locked_jobs, next_version, update_jobs
from akool_dagster.ledger.schema import HOUR_MS, VIDEO_IS_PENDING, jobs

VIDEO_FIELDS = (
    "version",
    "payload",
    "video_state",
    "video_attempts",
    "video_refusals",
    "video_next_at",
    "video_expires_at",
    "video_error",
    "video_record",
)
"""What an attempt to store a video may change."""


class VideoLedger:
    """The videos of one account."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def due(self, start: int | None, end: int) -> list[DueVideo]:
        """Return the due videos of jobs with ``start <= partition_at < end``, first to expire first."""
        query = (
            sa.select(
                jobs.c.job_id,
                jobs.c.partition_at,
                jobs.c.payload,
                jobs.c.video_expires_at,
                jobs.c.video_attempts,
                jobs.c.video_refusals,
            )
            .where(jobs.c.account == self._account, VIDEO_IS_PENDING, jobs.c.video_next_at <= self._clock.now_ms())
            .where(jobs.c.partition_at < end)
            .order_by(jobs.c.video_expires_at, jobs.c.job_id)
        )
        if start is not None:
            query = query.where(jobs.c.partition_at >= start)
        with self._database.read() as connection:
            return [
                DueVideo(
                    job_id=row.job_id,
                    partition_at=row.partition_at,
                    payload=row.payload,
                    expires_at=row.video_expires_at,
                    attempts=row.video_attempts,
                    refusals=row.video_refusals,
                )
                for row in connection.execute(query)
            ]

    def due_hours(self) -> list[DueVideos]:
        """Return, for every hour with videos to download now, how many and when the first URL dies."""
        hour_at = (jobs.c.partition_at - jobs.c.partition_at % HOUR_MS).label("hour_at")
        query = (
            sa.select(hour_at, sa.func.count(), sa.func.min(jobs.c.video_expires_at))
            .where(jobs.c.account == self._account, VIDEO_IS_PENDING)
            .where(jobs.c.video_next_at <= self._clock.now_ms())
            .group_by(hour_at)
            .order_by(hour_at)
        )
        with self._database.read() as connection:
            return [
                DueVideos(hour_at=at, due=due, earliest_expiry=expiry) for at, due, expiry in connection.execute(query)
            ]

    def store(self, job_id: str, record: Mapping[str, object]) -> None:
        """Record a verified, published video. ``record`` is what the manifest shows of the file.

        Raises `JobForgottenError` for a job that was forgotten meanwhile: the file must be removed again.
        """
        self._settle(
            job_id,
            lambda job: replace(
                job,
                video_state=VideoState.STORED,
                video_attempts=job.video_attempts + 1,
                video_refusals=0,
                video_next_at=None,
                video_error=None,
                video_record=json_text(record),
            ),
        )

    def fail(self, failure: VideoFailure) -> None:
        """Record a download that did not end with a verified file. Raises `JobForgottenError` as `store` does."""
        self._settle(
            failure.job_id,
            lambda job: replace(
                job,
                video_state=failure.state,
                video_attempts=job.video_attempts + failure.counts,
                video_refusals=job.video_refusals + failure.refused if failure.counts else job.video_refusals,
                video_next_at=failure.next_at,
                video_error=failure.error,
            ),
        )

    def keep_url(self, job_id: str, video_url: str, expires_at: int, *, is_first: bool = False) -> None:
        """Keep a newer URL of a completed job's video; the time at which the URL dies never goes back.

        Everything else stays as Akool reported it when the job settled: what it cost then is what it cost. The first
        usable URL of a job that completed without one (``is_first``) asks for a landing: the job's row has none.
        """
        with self._database.write() as connection:
            for job in locked_jobs(connection, self._account, [job_id]):
                if job.state != JobState.COMPLETED or job.payload is None:
                    continue
                known = json.loads(job.payload)
                if known.get("video_url") == video_url:
                    continue
                after = replace(
                    job,
                    payload=json.dumps(known | {"video_url": video_url}, ensure_ascii=False, separators=(",", ":")),
                    video_expires_at=max(job.video_expires_at or 0, expires_at),
                )
                self._write(connection, job, after, asks_for_tables=is_first)

    def records(self, job_ids: Collection[str]) -> dict[str, str]:
        """Return the record, as JSON text, of those of these jobs whose video is stored and whose URL is known."""
        found: dict[str, str] = {}
        for chunk in chunks(sorted(job_ids)):
            query = sa.select(jobs.c.job_id, jobs.c.video_record).where(
                jobs.c.account == self._account,
                jobs.c.job_id.in_(chunk),
                jobs.c.video_state == VideoState.STORED,
                jobs.c.payload.is_not(None),
            )
            with self._database.read() as connection:
                found |= {row[0]: row[1] for row in connection.execute(query)}
        return found

    def reopen(self, job_ids: Collection[str]) -> int:
        """Make these stored videos pending again, since their files are gone; return how many were stored.

        A video whose payload was pruned stays: its URL is not known any more.
        """
        now, reopened = self._clock.now_ms(), 0
        for chunk in chunks(sorted(job_ids)):
            with self._database.write() as connection:
                for job in locked_jobs(connection, self._account, chunk):
                    if job.video_state == VideoState.STORED and job.payload is not None:
                        after = replace(job, video_state=VideoState.PENDING, video_next_at=now, video_record=None)
                        self._write(connection, job, after)
                        reopened += 1
        return reopened

    def _settle(self, job_id: str, change: Callable[[Job], Job]) -> None:
        with self._database.write() as connection:
            for job in locked_jobs(connection, self._account, [job_id]):
                if job.state == JobState.FORGOTTEN:
                    raise JobForgottenError(f"Job {job_id} was forgotten: nothing of it is recorded or kept.")
                if job.video_state == VideoState.PENDING:
                    self._write(connection, job, change(job))

    def _write(self, connection: sa.Connection, job: Job, after: Job, *, asks_for_tables: bool = False) -> None:
        version = next_version(connection, self._clock.now_us())
        update_jobs(connection, self._account, VIDEO_FIELDS, [replace(after, version=version)])
        ask_for_landing(
            self._database,
            connection,
            self._account,
            version,
            tables=[job.partition_at] if asks_for_tables else [],
            videos=[job.partition_at] if job.video_state != after.video_state or asks_for_tables else [],
        )
