"""`ledger check`: what is wrong, and what to do next; and nothing when nothing is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster import JobLedger
from akool_dagster.ledger import Missed, Unreadable, VideoState
from akool_dagster.ledger.records import VideoFailure
from akool_dagster.operations.check import check
from akool_dagster.operations.findings import CheckReport, Level
from akool_dagster.operations.video_files import reopen_missing
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import Mark, write_mark
from tests.clock import FakeClock
from tests.integration.operations.helpers import (
    ALL,
    DAY,
    NOW,
    OLD_DAY,
    A,
    B,
    C,
    adopted,
    answered,
    jobs_of,
    live,
    notices,
    problems,
    read_rows,
    record,
    track,
    write_rows,
)

NewLedger = Callable[[], JobLedger]


@pytest.fixture
def landed(ledger: JobLedger, root: StorageRoot) -> JobLedger:
    """A ledger whose jobs have landed: A's video is stored, B failed."""
    return live(ledger, root, stored=[A], failed=[B])


def checked(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, *, account: str = "akool", files: bool = False
) -> CheckReport:
    return check(ledger.shown_url, root, account, clock=clock, files=files)


def the_problem(report: CheckReport) -> tuple[str, str, str]:
    (finding,) = (one for one in report.findings if one.level == Level.PROBLEM)
    return finding.about, finding.what, finding.hint


def test_nothing_is_found_where_nothing_is_wrong(landed: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    report = checked(landed, root, clock, files=True)
    assert (report.findings, report.ok, report.table_files, report.videos_checked) == ([], True, 5, 1)
    landed.account("akool").pruning.prune([A, B], landed.version())
    report = checked(landed, root, clock, files=True)
    assert (report.findings, report.videos_checked) == ([], 1)


def test_a_new_ledger_beside_an_empty_root_is_in_order(ledger: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    assert checked(ledger, root, clock).findings == []


def test_what_is_wrong_with_the_database_is_said_and_nothing_else_checked(
    root: StorageRoot, tmp_path: Path, clock: FakeClock, landed: JobLedger
) -> None:
    missing = check(f"sqlite:///{tmp_path / 'none.sqlite'}", root, "akool", clock=clock)
    assert (the_problem(missing)[0], missing.table_files) == ("database", None)
    (tmp_path / "text.sqlite").write_text("no database " * 100)
    damaged = check(f"sqlite:///{tmp_path / 'text.sqlite'}", root, "akool", clock=clock)
    assert the_problem(damaged)[0] == "database"
    engine = sa.create_engine(landed.shown_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE akool_jobs ADD COLUMN other TEXT"))
    changed = checked(landed, root, clock)
    assert (the_problem(changed)[0], changed.counts) == ("schema", None)


def test_a_root_of_another_ledger_or_of_none_is_named_with_the_command(
    landed: JobLedger, new_ledger: NewLedger, root: StorageRoot, clock: FakeClock, tmp_path: Path
) -> None:
    other = new_ledger()
    for ledger, place in ((other, root), (landed, StorageRoot(str(tmp_path / "not-mounted")))):
        found = [finding for finding in checked(ledger, place, clock).findings if finding.about == "identity"]
        assert "`akool-dagster ledger adopt`" in found[0].hint
    adopted(other.account("akool"), root, clock)
    assert checked(other, root, clock).ok


def test_another_granularity_is_a_problem(landed: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    write_mark(root, "akool", Mark(ledger_id=landed.ledger_id, granularity="hourly"))
    assert the_problem(checked(landed, root, clock))[:2] == (
        "granularity",
        "The partitions of akool are both daily and hourly, by the ledger, ledger.json and the names of the files.",
    )


def test_what_the_tables_know_beyond_the_ledger_leads_to_adopt(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = landed.account("akool")
    track(account, C)
    ended = {"state": "failed", "status": 4, "settled_at": NOW, "version": 1}
    write_rows(root, "akool", "statuses", "2025-02-01", [{"_id": "unknown"} | ended])
    rows = [*read_rows(root, "akool", "statuses", OLD_DAY), {"_id": C} | ended]
    write_rows(root, "akool", "statuses", OLD_DAY, rows)
    report = checked(landed, root, clock)
    said = problems(report.findings)
    assert "have 1 jobs that the ledger does not know: unknown" in said
    assert f"show 1 jobs as ended that the ledger does not: {C}" in said
    assert all("ledger adopt" in finding.hint for finding in report.findings)


def test_rows_of_forgotten_jobs_and_pruned_jobs_without_rows_are_problems(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = landed.account("akool")
    account.pruning.prune([A], landed.version())
    account.pruning.forget([B])
    for table in ALL:
        rows = [row for row in read_rows(root, "akool", table) if row["_id"] != A]
        write_rows(root, "akool", table, OLD_DAY, rows or [{"_id": "x", "version": 1}])
    said = problems(checked(landed, root, clock).findings)
    assert f"rows of 1 jobs that were forgotten: {B}" in said
    assert f"1 pruned jobs are in no readable table of {root.uri()}/akool: {A}" in said


def test_a_file_that_cannot_be_read_is_a_problem_and_one_that_is_gone_a_notice(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    folder = Path(root.uri(), "akool")
    (folder / f"credits/{OLD_DAY}.parquet").write_bytes(b"PAR1")
    assert f"{folder}/credits/{OLD_DAY}.parquet" in the_problem(checked(landed, root, clock))[1]
    write_rows(root, "akool", "durations", "2025-02-01", [])
    (folder / f"durations/{OLD_DAY}.parquet").unlink()
    assert f"durations of {OLD_DAY}" in notices(checked(landed, root, clock).findings)


def test_a_stored_video_whose_file_is_gone_is_downloaded_anew_when_asked_for(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = landed.account("akool")
    video = Path(root.uri(), f"akool/videos/{OLD_DAY}/{A}.mp4")
    assert reopen_missing(account, root, [A, B, "unknown"]) == 0
    video.write_bytes(b"short"[:2])
    assert checked(landed, root, clock).ok
    about, what, hint = the_problem(checked(landed, root, clock, files=True))
    assert (about, A in what, "track ID --again" in hint) == ("files", True, True)
    video.unlink()
    assert reopen_missing(account, root, [A, B, "unknown"]) == 1
    assert jobs_of(account)[A].video_state == "pending"
    assert checked(landed, root, clock, files=True).videos_checked == 0


def test_a_pruned_video_is_looked_for_by_the_manifest(landed: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    landed.account("akool").pruning.prune([A, B], landed.version())
    Path(root.uri(), f"akool/videos/{OLD_DAY}/{A}.mp4").unlink()
    assert the_problem(checked(landed, root, clock, files=True))[0] == "files"


def test_an_unknown_account_is_noticed(landed: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    report = checked(landed, root, clock, account="akol")
    assert (report.ok, notices(report.findings)) == (True, "The ledger has no jobs of akol, but of akool.")


def test_a_root_that_cannot_be_used_is_a_problem_and_the_jobs_are_checked(
    landed: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    folder = Path(root.uri(), "akool", "results")
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    report = checked(landed, root, clock)
    assert (the_problem(report)[0], report.table_files, report.counts is not None) == ("storage", None, True)


def test_jobs_that_wait_or_call_for_somebody_are_said_with_the_way_out(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    account = ledger.account("akool")
    names = ("unread", "missed", "gone", "unverified", "lost", "expiring")
    track(account, *names)
    for _ in range(5):
        clock.advance(150)
        record(account, Missed(job_id="gone"))
    record(account, Unreadable(job_id="unread", error="status is odd"), Missed(job_id="missed"))
    record(account, *(answered(one, 3, clock.now_ms()) for one in names[3:]))
    account.videos.fail(VideoFailure(job_id="unverified", error="no frames", state=VideoState.UNVERIFIED))
    account.videos.fail(VideoFailure(job_id="lost", error="404", state=VideoState.LOST))
    account.polling.hold(clock.now_ms() + 600_000)
    report = checked(ledger, root, clock)
    assert {finding.about for finding in report.findings} == {"polling", "videos"}
    said = problems(report.findings) + notices(report.findings)
    for words in (
        "could not be used: unread (status is odd)",
        "not returned, or refused, when last asked for: missed",
        "jobs are missing: Akool stopped returning them: gone",
        "refused by the verifier; what Akool served is kept beside the videos as <_id>.unverified: unverified",
        "lost: no bytes could be had before their URLs died: lost (404)",
        "their URLs die within a day or have died: expiring",
        "asked not to be called for another 10 minutes",
    ):
        assert words in said
    clock.advance(2 * DAY / 1000)
    said = problems(checked(ledger, root, clock).findings)
    assert "polls are overdue by more than ten minutes" in said
    assert "1 videos are overdue by more than ten minutes" in said
