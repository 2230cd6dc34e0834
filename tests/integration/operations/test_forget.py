"""`ledger forget`: an id stays, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from akool_dagster import JobLedger
from akool_dagster.ledger import InvalidJobError, JobForgottenError
from akool_dagster.operations.forget import ForgetReport, forget
from akool_dagster.storage import OsFiles, StorageRoot
from akool_dagster.storage.marker import Mark, OwnershipError, write_mark
from tests.clock import FakeClock
from tests.integration.ledger.helpers import object_id
from tests.integration.operations.helpers import (
    ALL,
    OLD,
    OLD_DAY,
    A,
    B,
    adopted,
    jobs_of,
    land,
    live,
    problems,
    read_rows,
    track,
    write_rows,
)


@pytest.fixture
def landed(ledger: JobLedger, root: StorageRoot) -> JobLedger:
    """A ledger whose jobs have landed: the videos of A and B are stored, with a refused file and a poster each."""
    live(ledger, root, stored=[A, B], person="someone")
    for job_id in (A, B):
        for suffix in (".unverified", ".webp"):
            Path(root.uri(), f"akool/videos/{OLD_DAY}/{job_id}{suffix}").write_bytes(b"more")
    return ledger


def forgotten(ledger: JobLedger, root: StorageRoot, clock: FakeClock, *ids: str) -> ForgetReport:
    return forget(ledger.account("akool"), root, ids, clock=clock)


def files(root: StorageRoot) -> set[str]:
    """Return the names of the files that are no tables and none of their locks."""
    found = (path for path in Path(root.uri()).rglob("*") if path.is_file())
    return {path.name for path in found if path.suffix not in (".parquet", ".lock")}


def rows_with(root: StorageRoot, job_id: str) -> list[str]:
    return [table for table in ALL for row in read_rows(root, "akool", table) if row["_id"] == job_id]


def assert_forgotten(ledger: JobLedger, root: StorageRoot) -> None:
    job = jobs_of(ledger.account("akool"))[A]
    assert (job.state, job.payload, job.labels, job.video_record) == ("forgotten", None, "{}", None)
    assert rows_with(root, A) == []
    assert rows_with(root, B) == list(ALL)
    assert files(root) == {"ledger.json", f"{B}.mp4", f"{B}.unverified", f"{B}.webp"}


def test_rows_and_files_go_and_do_not_come_back(landed: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    report = forgotten(landed, root, clock, A.upper())
    assert (report.jobs, report.rows, report.tables, report.files) == (1, 5, 5, 3)
    assert_forgotten(landed, root)
    account = landed.account("akool")
    track(account, A, person="someone")
    land(account, root)
    adopted(account, root, clock)
    with pytest.raises(JobForgottenError):
        account.videos.store(A, {"path": "x"})
    assert_forgotten(landed, root)


def test_a_job_that_only_the_tables_know_is_forgotten_too(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    elsewhere = object_id(OLD, 7)
    row = {"_id": elsewhere, "video_state": "stored", "path": f"akool/videos/2025-01-31/{elsewhere}.mp4", "version": 1}
    write_rows(root, "akool", "videos", "2025-02-01", [row])
    video = Path(root.uri(), row["path"])  # type: ignore[arg-type]
    video.parent.mkdir()
    video.write_bytes(b"film")
    report = forgotten(landed, root, clock, elsewhere, "nobody-knows")
    assert (report.rows, report.files, report.unknown) == (1, 1, ["nobody-knows"])
    assert not video.exists()
    assert rows_with(root, elsewhere) == []
    assert {one for one, job in jobs_of(landed.account("akool")).items() if job.state == "forgotten"} == {
        elsewhere,
        "nobody-knows",
    }


def test_a_crash_at_any_removal_is_finished_by_running_it_again(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    class FullDisk(OsFiles):
        def replace(self, source: Path, target: Path) -> None:
            if "durations" in target.parts:
                raise OSError("the disk is gone")
            super().replace(source, target)

    report = forgotten(landed, StorageRoot(root.uri(), files=FullDisk()), clock, A)
    assert "the disk is gone" in problems(report.findings)
    assert rows_with(root, A) == ["durations"]
    assert jobs_of(landed.account("akool"))[A].state == "forgotten"
    assert forgotten(landed, root, clock, A).findings == []
    assert_forgotten(landed, root)


def test_a_file_that_cannot_be_read_is_named_and_the_others_go_on(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    results = Path(root.uri(), f"akool/results/{OLD_DAY}.parquet")
    content = results.read_bytes()
    results.write_bytes(b"PAR1")
    assert str(results) in problems(forgotten(landed, root, clock, A).findings)
    results.write_bytes(content)
    assert rows_with(root, A) == ["results"]
    assert forgotten(landed, root, clock, A).findings == []
    assert_forgotten(landed, root)


@pytest.mark.parametrize(
    "path", ["akool/results/{day}.parquet", "akool/videos/../videos/{b}.mp4", "akool/videos/{day}/{b}.mp4", "../x", ""]
)
def test_a_path_in_the_manifest_that_is_not_the_jobs_own_is_not_believed(
    landed: JobLedger, root: StorageRoot, clock: FakeClock, path: str
) -> None:
    rows = [
        row | ({"path": path.format(day=OLD_DAY, b=B)} if row["_id"] == A else {})
        for row in read_rows(root, "akool", "videos")
    ]
    write_rows(root, "akool", "videos", OLD_DAY, rows)
    forgotten(landed, root, clock, A)
    assert_forgotten(landed, root)


def test_nothing_is_forgotten_for_a_bad_id_or_in_anothers_root(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    with pytest.raises(InvalidJobError):
        forgotten(landed, root, clock, A, "b@d")
    write_mark(root, "akool", Mark(ledger_id="another"))
    with pytest.raises(OwnershipError, match="Nothing was forgotten"):
        forgotten(landed, root, clock, A)
    assert jobs_of(landed.account("akool"))[A].state == "completed"
    assert rows_with(root, A) == list(ALL)
