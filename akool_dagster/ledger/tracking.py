"""Which jobs an account watches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

import sqlalchemy as sa

from akool_dagster.base.clock import Clock
from akool_dagster.ledger.database import Database
from akool_dagster.ledger.records import (
    Job,
    JobState,
    TrackReport,
    TrackRequest,
    check_labels,
    normalise_job_id,
)
from akool_dagster.ledger.rows import (
    ask_for_landing,
    chunks,
    insert_jobs,
    json_text,
    locked_jobs,
    new_job_row,
    next_version,
    update_jobs,
)
from akool_dagster.ledger.transitions import reopened

TRACKED_FIELDS = (
    "labels",
    "state",
    "watched_since",
    "next_poll_at",
    "misses",
    "first_missed_at",
    "urlless_polls",
    "last_code",
    "last_error",
    "video_state",
    "video_next_at",
    "video_refusals",
    "version",
)
"""What tracking an id again may change."""


class Tracking:
    """Tracks jobs of one account."""

    def __init__(self, database: Database, account: str, clock: Clock) -> None:
        self._database = database
        self._account = account
        self._clock = clock

    def track(self, requests: Iterable[TrackRequest], *, again: bool) -> TrackReport:
        """Do what `AccountLedger.track` says, 500 ids a transaction."""
        labels_by_id: dict[str, dict[str, str]] = {}
        total = 0
        for request in requests:
            total += 1
            job_id = normalise_job_id(request.job_id)
            check_labels(job_id, request.labels)
            labels_by_id.setdefault(job_id, {}).update(request.labels)
        report = TrackReport(repeated=total - len(labels_by_id))
        for chunk in chunks(sorted(labels_by_id.items())):
            report += self._track_chunk(dict(chunk), again)
        return report

    def _track_chunk(self, labels_by_id: Mapping[str, dict[str, str]], again: bool) -> TrackReport:
        now = self._clock.now_ms()
        added: set[str] = set()
        with self._database.write() as connection:
            known = {job.job_id: job for job in locked_jobs(connection, self._account, labels_by_id)}
            new = {job_id: labels for job_id, labels in labels_by_id.items() if job_id not in known}
            changes = [
                (job, after)
                for job_id, job in known.items()
                if (after := _tracked_again(job, labels_by_id[job_id], now, again)) != job
            ]
            if new or changes:
                version = next_version(connection, self._clock.now_us())
                rows = [new_job_row(self._account, job_id, labels, now, version) for job_id, labels in new.items()]
                added = insert_jobs(self._database, connection, rows)
                changed = [replace(after, version=version) for _, after in changes]
                update_jobs(connection, self._account, TRACKED_FIELDS, changed)
                self._ask(connection, version, changes)
        report = TrackReport(
            added=len(added),
            known=len(known),
            relabelled=sum(before.labels != after.labels for before, after in changes),
            reopened=sum(_is_reopened(before, after) for before, after in changes),
            pruned=sum(job.is_tombstone for job in known.values()),
            forgotten=sum(job.state == JobState.FORGOTTEN for job in known.values()),
        )
        # On PostgreSQL another process may have tracked them at the same time: they are known by now.
        raced = {job_id: labels for job_id, labels in new.items() if job_id not in added}
        return report + self._track_chunk(raced, again) if raced else report

    def _ask(self, connection: sa.Connection, version: int, changes: list[tuple[Job, Job]]) -> None:
        ask_for_landing(
            self._database,
            connection,
            self._account,
            version,
            tables=[
                job.partition_at for job, after in changes if (job.state, job.labels) != (after.state, after.labels)
            ],
            videos=[job.partition_at for job, after in changes if job.video_state != after.video_state],
        )


def _tracked_again(job: Job, labels: Mapping[str, str], now: int, again: bool) -> Job:
    """Return a known job as it stands when it is tracked. A tombstone and a forgotten job stay as they are."""
    if job.is_tombstone or job.state == JobState.FORGOTTEN:
        return job
    after = reopened(job, now) if again else job
    return replace(after, labels=json_text(json.loads(job.labels) | labels)) if labels else after


def _is_reopened(before: Job, after: Job) -> bool:
    return (before.state, before.video_state) != (after.state, after.video_state)
