"""Which jobs an account watches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

from akool_dagster.ledger.part import Change, LedgerPart
from akool_dagster.ledger.records import Job, JobState, TrackReport, TrackRequest, check_labels, normalise_job_id
from akool_dagster.ledger.rows import chunks, json_text, locked_jobs, new_job_row
from akool_dagster.ledger.transitions import reopened


class Tracking(LedgerPart):
    """Tracks jobs of one account."""

    def track(self, requests: Iterable[TrackRequest], *, again: bool = False) -> TrackReport:
        """Watch these ids from now on, 500 a transaction. Idempotent: a known id only gains labels.

        With ``again``, missing and abandoned jobs are polled anew, and unverified and lost videos are tried once
        more. Forgotten jobs stay forgotten, and pruned ones as they are. All ids and labels are checked before
        anything is written; raises `InvalidJobError` for the first bad one.
        """
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
        with self._database.write(alone=True) as connection:
            known = {job.job_id: job for job in locked_jobs(connection, self._account, labels_by_id)}
            new: list[Change] = [
                (None, Job(**new_job_row(self._account, job_id, labels, now, 0)))
                for job_id, labels in labels_by_id.items()
                if job_id not in known
            ]
            changes = [
                (job, after)
                for job_id, job in known.items()
                if (after := _tracked_again(job, labels_by_id[job_id], now, again)) != job
            ]
            self._write_jobs(connection, [*new, *changes])
        return TrackReport(
            added=len(new),
            known=len(known),
            relabelled=sum(before.labels != after.labels for before, after in changes),
            reopened=sum(_is_reopened(before, after) for before, after in changes),
            pruned=sum(job.is_tombstone for job in known.values()),
            forgotten=sum(job.state == JobState.FORGOTTEN for job in known.values()),
        )


def _tracked_again(job: Job, labels: Mapping[str, str], now: int, again: bool) -> Job:
    """Return a known job as it stands when it is tracked. A tombstone and a forgotten job stay as they are."""
    if job.is_tombstone or job.state == JobState.FORGOTTEN:
        return job
    after = reopened(job, now) if again else job
    return replace(after, labels=json_text(json.loads(job.labels) | labels)) if labels else after


def _is_reopened(before: Job, after: Job) -> bool:
    return (before.state, before.video_state) != (after.state, after.video_state)
