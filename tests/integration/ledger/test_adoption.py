"""Conformance: what a ledger knows after it has adopted what landed tables show."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger import AccountLedger, Job, JobLedger
from akool_dagster.ledger.adoption import AdoptReport, FoundJob
from akool_dagster.ledger.rows import new_job_row
from tests.integration.ledger.helpers import (
    DAY,
    HOUR,
    NOW,
    TABLES,
    TODAY,
    answered,
    claimed_ids,
    complete,
    dirty,
    job_of,
    land,
    object_id,
    record,
    states,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]

ENDED: dict[str, Any] = {"state": "completed", "status": 3, "settled_at": NOW - HOUR, "polls": 0}
STORED = ENDED | {"video_state": "stored", "is_settled": True}
TO_DOWNLOAD = ENDED | {"video_state": "pending", "video_next_at": NOW, "payload": '{"video_url":"https://cdn/x"}'}


def found(job_id: str, at: int = NOW, *, is_settled: bool = False, **told: Any) -> FoundJob:
    """Return a job as the tables show it, in the daily partition of a time."""
    row = new_job_row("akool", job_id, {}, NOW, 0) | {"partition_at": at} | told
    job = Job(**{field.name: row[field.name] for field in fields(Job)})
    return FoundJob(job=job, start=at - at % DAY, end=at - at % DAY + DAY, is_settled=is_settled)


def test_jobs_that_only_the_tables_know_are_added_as_they_are(ledger: JobLedger, account: AccountLedger) -> None:
    report = account.adoption.adopt(
        [
            found("to-poll", TODAY - DAY, status=2, labels='{"k":"v"}', processing_seen_at=NOW - DAY),
            found("stored", TODAY - 2 * DAY, **STORED),
            found("to-download", **TO_DOWNLOAD),
        ]
    )
    assert report == AdoptReport(added=3)
    assert claimed_ids(account) == ["to-poll"]
    assert [video.job_id for video in account.videos.due(None, NOW + DAY)] == ["to-download"]
    assert account.pruning.tombstones() == ["stored"]
    assert job_of(account, "to-poll").labels == '{"k":"v"}'
    assert {job.version for job in account.jobs()} == {ledger.version()}
    version = ledger.version()
    assert {one.partition_at: (one.tables_version, one.videos_version) for one in dirty(account)} == {
        TODAY - 2 * DAY: (version, version),
        TODAY - DAY: (version, 0),
        TODAY: (version, version),
    }
    assert account.inspection.broken_rules() == []


def test_an_end_that_the_tables_know_is_taken_over_and_one_that_the_ledger_knows_stays(
    account: AccountLedger,
) -> None:
    track(account, "stored", "to-download", "failed", labels={"ours": "1"})
    complete(account, "ours")
    record(account, answered("stored", 2), answered("failed", 4, reason="no face"))
    ours = job_of(account, "ours")
    report = account.adoption.adopt(
        [
            found("stored", **STORED),
            found("to-download", labels='{"theirs":"2"}', **TO_DOWNLOAD),
            found("failed", **STORED),
            found("ours", state="failed", status=4, settled_at=NOW - HOUR),
        ]
    )
    assert report == AdoptReport(settled=2, unchanged=2)
    assert job_of(account, "ours") == ours
    assert states(account) == {
        "ours": "completed",
        "stored": "completed",
        "to-download": "completed",
        "failed": "failed",
    }
    stored = job_of(account, "stored")
    assert stored.is_tombstone  # the payload of its last answer is not the row that the tables have
    assert (stored.settled_at, stored.video_state, stored.video_next_at) == (NOW - HOUR, "stored", None)
    job = job_of(account, "to-download")
    assert (job.labels, job.payload) == ('{"ours":"1","theirs":"2"}', TO_DOWNLOAD["payload"])


def test_jobs_move_to_the_partition_of_their_rows_and_gain_times_and_labels(account: AccountLedger) -> None:
    track(account, "moved", "both", "here", labels={"k": "ours"})
    complete(account, "tombstone", "gone")
    account.videos.store("tombstone", {})
    account.pruning.prune(["tombstone"], END_OF_TIME)
    account.pruning.forget(["gone"])
    gone = job_of(account, "gone")
    there = TODAY - 9 * DAY
    told: dict[str, Any] = {
        "labels": '{"k":"theirs","x":"y"}',
        "tracked_at": NOW - DAY,
        "queueing_seen_at": NOW - 5,
        "status": 1,
    }
    report = account.adoption.adopt(
        [
            found("moved", there, labels='{"k":"theirs"}'),
            found("both", there + HOUR, **told),
            found("here", TODAY, labels="{}"),
            found("tombstone", there, **told, state="completed"),
            found("gone", there, **TO_DOWNLOAD),
        ]
    )
    assert report == AdoptReport(moved=3, filled=1, unchanged=2)
    assert {job.job_id for job in account.jobs() if job.partition_at // DAY == there // DAY} == {
        "moved",
        "both",
        "tombstone",
    }
    both = job_of(account, "both")
    assert (both.labels, both.tracked_at, both.queueing_seen_at, both.status) == (
        '{"k":"ours","x":"y"}',
        NOW - DAY,
        NOW - 5,
        1,
    )
    assert (job_of(account, "tombstone").is_tombstone, job_of(account, "gone")) == (True, gone)
    assert [one.partition_at for one in dirty(account)] == [there, TODAY]


def test_adopting_twice_changes_nothing(ledger: JobLedger, account: AccountLedger) -> None:
    track(account, "known")
    told = [found("known", TODAY - DAY, **STORED)] + [found(f"{number:04}", **TO_DOWNLOAD) for number in range(600)]
    assert account.adoption.adopt(told) == AdoptReport(added=600, settled=1, moved=1)
    before, version = list(account.jobs()), ledger.version()
    assert account.adoption.adopt(told) == AdoptReport(unchanged=601)
    assert (list(account.jobs()), ledger.version()) == (before, version)


def test_versions_continue_above_those_of_the_tables(ledger: JobLedger, account: AccountLedger) -> None:
    track(account, "a")
    for above in (ledger.version() + 10**12, 5):
        before = ledger.version()
        account.adoption.raise_version(above)
        assert ledger.version() == max(before, above + 1)
    track(account, "b")
    assert job_of(account, "b").version > before


def test_everything_lands_again_after_an_adoption_and_every_lease_ends(
    ledger: JobLedger, account: AccountLedger
) -> None:
    other = ledger.account("other")
    for one in (account, other):
        complete(one, object_id(TODAY), object_id(TODAY - DAY))
        for start in (TODAY, TODAY - DAY):
            land(one, f"{start}", start, start + DAY)
        one.leases.take("tables", "k", "run")
    account.adoption.land_everything_again()
    assert [one.partition_at for one in dirty(account)] == [TODAY - DAY, TODAY]
    assert set(account.landings.landed(0).values()) == {0}
    assert account.leases.take("tables", "k", "another") is None
    assert other.landings.dirty(DAY, TABLES, videos=True) == []
    assert other.leases.take("tables", "k", "another") is not None
