"""Conformance: a job that landed in one partition, and that a ledger made anew has in another, ends in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from akool_dagster.ledger.restoring import Outcome

from akool_dagster import JobLedger
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import OwnershipError
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, DAY, HOUR, NOW, job_of, record, track
from tests.integration.operations_words import adopted, place, restored, told
from tests.landed_tables import land, rows_of

pytest_plugins = ["tests.integration.ledger_databases"]

J, K = "job-j", "job-k"
"""Ids that tell no time: they lie on the day on which they are tracked."""
TODAY, TOMORROW = "2025-10-09", "2025-10-10"


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"))


def days(root: StorageRoot, table: str = "credits") -> list[tuple[str, str]]:
    return [(row["_id"], str(row["partition_time"])[:10]) for row in rows_of(place(root))[table]]


def land_j_the_day_before(ledger: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    track(ledger, J)
    record(ledger, told(J, 3))
    land(ledger, place(root))
    clock.jump(DAY / 1000)


def test_a_job_that_was_tracked_again_before_restoring_goes_back_to_the_day_it_landed_on(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    track(ledger, J, K)
    record(ledger, told(J, 3))  # K still waits, and only `statuses` shows it
    land(ledger, place(root))
    clock.jump(DAY / 1000)
    track(second_ledger, J, K, "never-landed")
    record(second_ledger, told("never-landed", 4))
    with pytest.raises(OwnershipError, match="ledger restore"):
        adopted(second_ledger, root)
    report = restored(second_ledger, root, clock)
    assert (report.problems, report.outcomes[Outcome.SETTLED], report.outcomes[Outcome.UPDATED]) == ([], 1, 1)
    assert second_ledger.inspection(ACCOUNT).broken_rules() == []
    assert [job_of(second_ledger, job_id).partition_at for job_id in (J, K)] == [NOW, NOW]
    assert job_of(second_ledger, "never-landed").partition_at == NOW + DAY
    assert set(restored(second_ledger, root, clock).outcomes) == {Outcome.UNCHANGED}
    adopted(second_ledger, root)
    land(second_ledger, place(root))
    assert sorted(days(root)) == [(J, TODAY), ("never-landed", TOMORROW)]
    assert sorted(days(root, "statuses")) == [(J, TODAY), (K, TODAY), ("never-landed", TOMORROW)]


def test_an_hour_that_jobs_are_taken_out_of_asks_for_no_landing_any_more(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    land_j_the_day_before(ledger, root, clock)
    track(second_ledger, J, K)
    record(second_ledger, told(K, 4))
    kept = second_ledger.heads(ACCOUNT)
    clock.jump(1)
    record(second_ledger, told(J, 3))  # Akool was asked again meanwhile
    assert [head.hour_at for head in second_ledger.heads(ACCOUNT)] == [head.hour_at for head in kept]
    assert restored(second_ledger, root, clock).problems == []
    there, left = sorted(second_ledger.heads(ACCOUNT), key=lambda head: head.hour_at)
    assert there.hour_at == NOW - NOW % HOUR
    assert [left] == kept
    assert second_ledger.inspection(ACCOUNT).broken_rules() == []


def test_a_dry_run_moves_no_job(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    land_j_the_day_before(ledger, root, clock)
    track(second_ledger, J)
    before = job_of(second_ledger, J)
    report = restored(second_ledger, root, clock, dry_run=True)
    assert (report.outcomes, report.problems) == ({Outcome.SETTLED: 1}, [])
    assert job_of(second_ledger, J) == before


@pytest.mark.parametrize("unreadable", [False, True])
def test_a_job_that_has_landed_on_two_days_stays_where_the_ledger_has_it_and_is_a_problem(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock, unreadable: bool
) -> None:
    track(ledger, J, K)
    record(ledger, told(J, 3), told(K, 4))
    land(ledger, place(root))
    clock.jump(DAY / 1000)
    track(second_ledger, J)
    record(second_ledger, told(J, 3))
    land(second_ledger, place(root).with_name("elsewhere"))
    for file in place(root).with_name("elsewhere").glob(f"*/*/{TOMORROW}.parquet"):
        copy = place(root) / file.relative_to(place(root).with_name("elsewhere"))
        copy.write_bytes(b"no Parquet" if unreadable else file.read_bytes())
    report = restored(second_ledger, root, clock, foreign=True)
    assert f"1 jobs of {TODAY} have landed in another partition too, or may have: {J}." in " ".join(
        finding.what for finding in report.problems
    )
    assert job_of(second_ledger, J).partition_at == NOW + DAY
    assert job_of(second_ledger, K).partition_at == NOW
    if unreadable:
        return
    for file in place(root).glob(f"*/*/{TODAY}.parquet"):  # what the problem says is to be done
        file.unlink()
    assert restored(second_ledger, root, clock, foreign=True).problems == []
    adopted(second_ledger, root)
    land(second_ledger, place(root))
    assert sorted(days(root)) == [(J, TOMORROW), (K, TODAY)]
