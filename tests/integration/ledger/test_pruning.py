"""Conformance: which jobs are emptied, and what is left of a job that is forgotten."""

from __future__ import annotations

from dataclasses import asdict

from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger import AccountLedger, Job, JobLedger, TrackReport, VideoState
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    DAY,
    HOUR,
    NOW,
    answered,
    claimed_ids,
    complete,
    fail,
    go_missing,
    job_of,
    object_id,
    record,
    rows_of,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def what_is_left(job: Job) -> dict[str, object]:
    """Return the fields of a job that say anything."""
    return {name: value for name, value in asdict(job).items() if value not in (None, 0, "{}")}


def test_only_failed_jobs_and_those_whose_video_is_stored_or_lost_are_pruned(
    account: AccountLedger, clock: FakeClock
) -> None:
    track(account, "missing", "failed", "pending")
    go_missing(account, clock, "missing", code=1008)
    record(account, answered("failed", 4, reason="no face"), answered("pending", 2))
    complete(account, "stored", "lost", "unverified", "to-download")
    account.videos.store("stored", {"path": "x"})
    fail(account, "lost")
    fail(account, "unverified", VideoState.UNVERIFIED)
    prunable = {"failed": "failed", "stored": "completed", "lost": "completed"}
    assert account.pruning.prunable(NOW, NOW + DAY) == prunable
    assert account.pruning.prunable(NOW + DAY, NOW + 2 * DAY) == {}
    assert account.pruning.prune([job.job_id for job in account.jobs()], END_OF_TIME) == 3
    assert account.pruning.prune(prunable, END_OF_TIME) == 0
    assert account.pruning.tombstones() == sorted(prunable)
    assert account.pruning.partitions_of([*prunable, "unknown"]).keys() == prunable.keys()
    stored = job_of(account, "stored")
    assert what_is_left(stored) == {
        "account": "akool",
        "job_id": "stored",
        "partition_at": stored.partition_at,
        "state": "completed",
        "settled_at": stored.settled_at,
        "video_state": "stored",
    }
    assert account.inspection.broken_rules() == []


def test_a_job_that_changed_after_its_partition_landed_is_not_pruned(account: AccountLedger) -> None:
    track(account, "a", "b")
    record(account, answered("a", 4), answered("b", 4))
    landed = job_of(account, "a").version
    track(account, "b", labels={"k": "v"})
    assert account.pruning.prune(["a", "b"], landed) == 1
    assert (job_of(account, "a").payload, job_of(account, "b").labels) == (None, '{"k":"v"}')


def test_of_a_forgotten_job_an_id_is_left_and_no_more(
    ledger: JobLedger, account: AccountLedger, clock: FakeClock
) -> None:
    unknown = object_id(NOW - HOUR)
    complete(account, "stored", "pruned", "to-download")
    track(account, "pending", "failed", "kept", labels={"person": "x"})
    record(account, answered("failed", 4, reason="no face"), answered("pending", 2))
    for job_id in ("stored", "pruned"):
        account.videos.store(job_id, {"path": "x"})
    account.pruning.prune(["pruned"], END_OF_TIME)
    account.polling.set_call_size(["pending"], 1)
    gone = {"stored", "pruned", "to-download", "pending", "failed", unknown}
    account.pruning.forget(gone)
    assert account.landings.forgotten() == gone
    assert {job.job_id for job in account.jobs("forgotten")} == gone
    for job_id in gone:
        job = job_of(account, job_id)
        assert what_is_left(job) == {
            "account": "akool",
            "job_id": job_id,
            "partition_at": job.partition_at,
            "state": "forgotten",
            "version": ledger.version(),
        }
    assert job_of(account, unknown).partition_at == NOW - HOUR
    clock.advance(DAY / 1000)
    assert track(account, *gone, labels={"k": "v"}, again=True) == TrackReport(known=len(gone), forgotten=len(gone))
    account.pruning.forget(["pending"])
    assert rows_of(account) == [("kept",)]
    assert claimed_ids(account) == ["kept"]
    assert (account.videos.due(None, 2**62), account.pruning.tombstones()) == ([], [])
    assert account.counts().states == {"forgotten": len(gone), "pending": 1}
