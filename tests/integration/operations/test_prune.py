"""`ledger prune`: only what the tables hold is emptied."""

from __future__ import annotations

from pathlib import Path

import pytest

from akool_dagster import JobLedger
from akool_dagster.operations.prune import PruneReport, prune
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import Mark, OwnershipError, write_mark
from tests.clock import FakeClock
from tests.integration.operations.helpers import (
    ALL,
    NOW,
    OLD_DAY,
    A,
    B,
    adopted,
    land,
    notices,
    problems,
    read_rows,
    track,
    write_rows,
)


def pruned(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, *, days: int = 30, dry_run: bool = False
) -> PruneReport:
    return prune(ledger, ledger.account("akool"), root, older_than_days=days, clock=clock, dry_run=dry_run)


def tombstones(ledger: JobLedger) -> list[str]:
    return [job.job_id for job in ledger.account("akool").jobs() if job.is_tombstone]


def test_settled_jobs_of_old_partitions_are_emptied_and_land_no_more(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    rows = {table: read_rows(root, "akool", table) for table in ALL}
    assert pruned(landed, root, clock, days=60).partitions == 0
    dry = pruned(landed, root, clock, dry_run=True)
    assert (dry.pruned, dry.findings, tombstones(landed)) == (2, [], [])
    report = pruned(landed, root, clock)
    assert (report.pruned, report.kept, report.partitions, report.findings) == (2, 0, 1, [])
    assert tombstones(landed) == [A, B]
    assert pruned(landed, root, clock).partitions == 0
    track(landed.account("akool"), A, B, campaign="autumn")
    land(landed.account("akool"), root)
    assert {table: read_rows(root, "akool", table) for table in ALL} == rows
    assert adopted(landed.account("akool"), root, clock).jobs.unchanged == 4
    assert tombstones(landed) == [A, B]


def test_a_partition_that_has_not_landed_as_it_is_stays(landed: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    track(landed.account("akool"), A, campaign="autumn")
    assert "has not landed as the ledger has it" in notices(pruned(landed, root, clock).findings)
    assert tombstones(landed) == []
    land(landed.account("akool"), root)
    assert pruned(landed, root, clock).pruned == 2


@pytest.mark.parametrize(
    ("table", "shown"),
    [*((table, None) for table in ALL), ("statuses", {"state": "pending"}), ("videos", {"video_state": "pending"})],
)
def test_a_job_stays_whose_row_is_not_in_every_table_or_shows_no_end(
    landed: JobLedger, root: StorageRoot, clock: FakeClock, table: str, shown: dict[str, str] | None
) -> None:
    rows = {row["_id"]: row for row in read_rows(root, "akool", table)}
    left = [row | (shown or {} if job_id == A else {}) for job_id, row in rows.items() if shown or job_id != A]
    write_rows(root, "akool", table, OLD_DAY, left)
    assert pruned(landed, root, clock).kept == 1
    assert tombstones(landed) == [B]


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_nothing_of_a_partition_is_pruned_whose_file_is_damaged_or_gone(
    landed: JobLedger, root: StorageRoot, clock: FakeClock, damage: str
) -> None:
    file = Path(root.uri(), f"akool/credits/{OLD_DAY}.parquet")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    report = pruned(landed, root, clock)
    assert (str(file) in problems(report.findings)) is (damage == "truncated")
    assert tombstones(landed) == []


@pytest.mark.parametrize("kind", ["tables", "videos"])
def test_a_partition_that_a_run_holds_is_left_alone(
    landed: JobLedger, root: StorageRoot, clock: FakeClock, kind: str
) -> None:
    with JobLedger.open(landed.shown_url, clock=FakeClock(NOW + 50_000)) as other:  # holds it longer than we wait
        other.account("akool").leases.take(kind, OLD_DAY, "the-other-run")
    assert "the-other-run" in problems(pruned(landed, root, clock).findings)
    assert tombstones(landed) == []


def test_nothing_is_pruned_where_the_tables_are_not_this_ledgers_own(
    landed: JobLedger, root: StorageRoot, clock: FakeClock, tmp_path: Path
) -> None:
    write_mark(root, "akool", Mark(ledger_id="another"))
    for place in (root, StorageRoot(str(tmp_path / "empty"))):
        with pytest.raises(OwnershipError, match="Nothing was pruned"):
            pruned(landed, place, clock)
    assert tombstones(landed) == []
