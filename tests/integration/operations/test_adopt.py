"""`ledger adopt`: the one command for every change of ledger or root."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from akool_dagster import JobLedger
from akool_dagster.operations.adopt import plan_adoption
from akool_dagster.storage import OsFiles, StorageError, StorageRoot
from akool_dagster.storage.marker import OwnershipError, read_mark
from tests.clock import FakeClock
from tests.integration.operations.helpers import (
    ALL,
    DAY,
    NOW,
    OLD_DAY,
    A,
    B,
    C,
    D,
    adopted,
    answered,
    jobs_of,
    land,
    notices,
    problems,
    read_rows,
    record,
    track,
    write_rows,
)

NewLedger = Callable[[], JobLedger]


def test_a_new_ledger_knows_all_that_the_tables_know(
    landed: JobLedger, new_ledger: NewLedger, root: StorageRoot, clock: FakeClock
) -> None:
    known = jobs_of(landed.account("akool"))
    account = (second := new_ledger()).account("akool")
    clock.advance(DAY / 1000)
    report = adopted(account, root, clock)
    assert (report.jobs.added, report.asked_again, report.findings) == (4, 0, [])
    mine = jobs_of(account)
    assert [mine[one].state for one in (A, B, C, D)] == ["completed", "failed", "completed", "pending"]
    assert [mine[one].is_tombstone for one in (A, B, C, D)] == [True, True, False, False]
    assert [mine[one].settled_at for one in (A, B, C)] == [known[one].settled_at for one in (A, B, C)]
    assert json.loads(mine[C].payload or "") == json.loads(known[C].payload or "")
    assert (mine[C].video_state, mine[C].video_expires_at) == ("pending", known[C].video_expires_at)
    assert [video.job_id for video in account.videos.due(None, 2**62)] == [C]
    assert (mine[D].labels, mine[D].tracked_at) == (known[D].labels, known[D].tracked_at)
    assert mine[D].processing_seen_at == known[D].processing_seen_at
    assert [job.job_id for job in account.polling.claim(10)] == [D]
    assert second.version() > max(row["version"] for table in ALL for row in read_rows(root, "akool", table))
    mark = read_mark(root, "akool")
    assert mark is not None
    assert (mark.ledger_id, mark.granularity) == (second.ledger_id, "daily")
    assert account.landings.granularity() == "daily"
    assert account.landings.root_is_marked()
    (dirty,) = account.landings.dirty(DAY, ["results"], videos=True)
    assert dirty.tables_version > 0 < dirty.videos_version


def test_adopting_again_changes_no_job_and_lands_everything_again(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = landed.account("akool")
    before = jobs_of(account)
    report = adopted(account, root, clock)
    assert (report.jobs.unchanged, jobs_of(account)) == (4, before)
    assert plan_adoption(account, root).reason is None
    assert set(account.landings.landed(0).values()) == {0}


def test_the_marker_is_written_last_and_a_crash_before_it_does_no_harm(
    landed: JobLedger, new_ledger: NewLedger, root: StorageRoot, clock: FakeClock
) -> None:
    class Crashing(OsFiles):
        def replace(self, source: Path, target: Path) -> None:
            raise OSError("the machine is gone")

    account = (second := new_ledger()).account("akool")
    with pytest.raises(StorageError, match="the machine is gone"):
        adopted(account, StorageRoot(root.uri(), files=Crashing()), clock)
    assert (mark := read_mark(root, "akool"))
    assert mark.ledger_id == landed.ledger_id
    known = jobs_of(account)
    assert adopted(account, root, clock).jobs.unchanged == 4
    assert jobs_of(account) == known
    assert (mark := read_mark(root, "akool"))
    assert mark.ledger_id == second.ledger_id


@pytest.mark.parametrize("marker", ["{", '{"ledger": "another"}', None])
def test_whatever_the_marker_says_it_is_replaced(
    landed: JobLedger, root: StorageRoot, clock: FakeClock, marker: str | None
) -> None:
    file = Path(root.uri(), "akool/ledger.json")
    file.unlink() if marker is None else file.write_text(marker)
    account = landed.account("akool")
    assert plan_adoption(account, root).reason is not None
    adopted(account, root, clock)
    assert plan_adoption(account, root).reason is None


def test_an_empty_root_is_marked_and_every_known_partition_lands_there(
    landed: JobLedger, tmp_path: Path, clock: FakeClock
) -> None:
    account, moved = landed.account("akool"), StorageRoot(str(tmp_path / "elsewhere"))
    assert account.landings.dirty(DAY, ["results"], videos=True) == []
    assert adopted(account, moved, clock).files == 0
    assert len(account.landings.dirty(DAY, ["results"], videos=True)) == 1
    assert plan_adoption(account, moved).reason is None


def test_a_job_that_was_tracked_anew_goes_to_the_partition_of_its_row(
    new_ledger: NewLedger, ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    first, second = ledger.account("akool"), new_ledger().account("akool")
    track(first, "odd-id", campaign="spring")
    land(first, root)
    clock.advance(3 * DAY / 1000)
    track(second, "odd-id", centre="7")
    report = adopted(second, root, clock)
    assert (report.jobs.moved, report.jobs.added) == (1, 0)
    (job,) = second.jobs()
    assert (job.partition_at // DAY, job.tracked_at) == (NOW // DAY, NOW)
    assert json.loads(job.labels) == {"campaign": "spring", "centre": "7"}
    assert adopted(second, root, clock).jobs.unchanged == 1


def test_a_job_with_rows_in_two_partitions_stays_in_the_first(
    new_ledger: NewLedger, ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    first, second = ledger.account("akool"), new_ledger().account("akool")
    track(first, "odd-id")
    land(first, root)
    clock.advance(3 * DAY / 1000)
    track(second, "odd-id")
    record(second, answered("odd-id", 4))
    Path(root.uri(), "akool/ledger.json").unlink()
    land(second, root)
    for account in (first, second):
        report = adopted(account, root, clock)
        assert "1 jobs of" in notices(report.findings)
        (job,) = account.jobs()
        assert (job.partition_at // DAY, job.state) == (NOW // DAY, "failed")
        assert adopted(account, root, clock).jobs.unchanged == 2  # the job, as each of its rows shows it


def test_an_answer_from_before_the_end_does_not_land_as_the_row_of_an_ended_job(
    new_ledger: NewLedger, ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    first, older = ledger.account("akool"), new_ledger().account("akool")
    for account in (first, older):
        track(account, B)
        record(account, answered(B, 2))
    record(first, answered(B, 4))
    land(first, root, ["credits", "statuses"])
    adopted(older, root, clock)
    (job,) = older.jobs()
    assert (job.state, job.payload, job.is_tombstone) == ("failed", None, True)


def test_an_end_whose_row_no_table_has_in_full_is_asked_for_again(
    ledger: JobLedger, new_ledger: NewLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = ledger.account("akool")
    track(account, A)
    record(account, answered(A, 3))
    land(account, root, ["credits", "statuses"])
    second = new_ledger().account("akool")
    assert adopted(second, root, clock).asked_again == 1
    (job,) = second.jobs()
    assert (job.state, job.status) == ("pending", 3)


def test_a_forgotten_job_stays_forgotten_and_a_tombstone_without_a_row_is_reported(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = landed.account("akool")
    account.pruning.prune([A, B], landed.version())
    account.pruning.forget([B])
    Path(root.uri(), f"akool/videos/{OLD_DAY}.parquet").unlink()
    assert adopted(account, root, clock).findings == []
    assert jobs_of(account)[B].state == "forgotten"
    for table in ("results", "credits", "durations", "statuses"):
        Path(root.uri(), f"akool/{table}/{OLD_DAY}.parquet").unlink()
    assert f"1 pruned jobs are in no readable table of {root.uri()}/akool: {A}" in problems(
        adopted(account, root, clock).findings
    )


def test_partitions_of_two_lengths_are_refused_before_anything_is_changed(
    landed: JobLedger, new_ledger: NewLedger, root: StorageRoot, clock: FakeClock
) -> None:
    second = new_ledger().account("akool")
    second.landings.settle_granularity("hourly")
    with pytest.raises(OwnershipError, match=r"daily partitions\. The ledger's partitions are hourly"):
        adopted(second, root, clock)
    write_rows(root, "akool", "statuses", f"{OLD_DAY}-0500", read_rows(root, "akool", "statuses"))
    with pytest.raises(OwnershipError, match="daily and hourly"):
        adopted(new_ledger().account("akool"), root, clock)
    assert list(second.jobs()) == []


def test_a_row_that_says_nothing_usable_is_left_out_and_the_others_are_adopted(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    base = {"state": "pending", "version": 7, "labels": "{}"}
    odd = [
        {"_id": "b@d"},
        {"_id": "BAD00000000000000000000A"},
        {"_id": "labels", "labels": "[1]"},
        {"_id": "nul", "labels": '{"a": "\\u0000"}'},
    ]
    rows = [base | {"_id": "fine", "version": 2**63 - 1}, *(base | one for one in odd), base | {"_id": "fine-too"}]
    write_rows(root, "akool", "statuses", "2025-10-01", rows)
    write_rows(root, "akool", "results", "2025-10-01", [{"_id": "extra", "status_label": "failed", "extra": "7"}])
    account = ledger.account("akool")
    report = adopted(account, root, clock)
    assert sorted(jobs_of(account)) == ["fine", "fine-too"]
    assert len(report.findings) == 5
    assert all("was left out" in finding.what for finding in report.findings)


def test_a_version_from_a_clock_that_was_ahead_is_counted_on_from(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    ahead = (NOW + 400 * DAY) * 1000
    write_rows(root, "akool", "statuses", OLD_DAY, [{"_id": A, "state": "pending", "version": ahead, "labels": "{}"}])
    account = ledger.account("akool")
    adopted(account, root, clock)
    assert jobs_of(account)[A].version > ahead
