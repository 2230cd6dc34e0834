"""Conformance: checking, restoring, adopting and pruning a ledger, on every database it may live in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from akool_dagster.ledger.restoring import Outcome

from akool_dagster import TABLES, JobLedger
from akool_dagster.ledger import Missed, Unreadable
from akool_dagster.ledger.records import KnownLanding, VideoFailure
from akool_dagster.ledger.schema import VERSION_TABLE
from akool_dagster.operations.adopt import plan_adoption
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import Mark, OwnershipError, read_mark, write_mark
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, DAY, HOUR, NOW, execute, job_of, object_id, record, track
from tests.integration.operations_words import (
    OLD,
    OLD_DAY,
    A,
    B,
    C,
    adopted,
    checked,
    notices,
    place,
    problems,
    pruned,
    restored,
    settle,
    told,
)
from tests.landed_tables import land, land_partition, rows_of

pytest_plugins = ["tests.integration.ledger_databases"]


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"))


# check


def test_a_sound_ledger_and_its_root_are_in_order(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    assert checked(ledger_url, root, clock).ok  # before anything is tracked or has landed
    settle(ledger)
    ledger.store_video(ACCOUNT, C, {"path": "c.mp4", "bytes": 1})
    land(ledger, place(root))
    report = checked(ledger_url, root, clock)
    assert (report.ok, report.ledger_id, report.table_files) == (True, ledger.ledger_id, len(TABLES))
    assert report.counts is not None
    assert report.counts.states == {"completed": 2, "failed": 1}


def test_a_database_that_is_no_ledger_of_this_version_is_told_and_nothing_else_is_looked_at(
    new_database: Callable[[], str], root: StorageRoot, clock: FakeClock
) -> None:
    url = new_database()
    assert "database" in problems(checked(url, root, clock))
    JobLedger.create(url).close()
    for version, word in (("9999", "Upgrade"), ("0000", "ledger init")):
        execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")  # noqa: S608
        report = checked(url, root, clock)
        assert word in problems(report)["schema"]
        assert report.schema == version


def test_tables_that_are_not_as_the_code_describes_them_are_told(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    execute(ledger_url, "DROP INDEX ix_akool_jobs_due", "CREATE TABLE somebody_elses (id INTEGER)")
    found = problems(checked(ledger_url, root, clock))
    assert "ix_akool_jobs_due" in found["schema"]
    assert "somebody_elses" not in found["schema"]


def test_a_damaged_file_is_told(root: StorageRoot, clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "damaged.sqlite"
    with JobLedger.create(f"sqlite:///{file}") as ledger:
        track(ledger, *(object_id(OLD, number) for number in range(2000)))
    with file.open("r+b") as opened:  # in the middle, where the rows are
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\xff" * 20_000)
    report = checked(f"sqlite:///{file}", root, clock)
    assert not report.ok
    assert problems(report).keys() & {"integrity", "database"}
    file.write_bytes(b"not a database" * 500)
    assert "database" in problems(checked(f"sqlite:///{file}", root, clock))


BROKEN = {
    "no head is above its job's revision": "UPDATE akool_jobs SET head = revision + 1",
    "no revision is above the ledger's counter": "UPDATE akool_ledger SET revision = 0",
    "an hour's head is the highest": "UPDATE akool_hours SET head = head - 1",
    "has its payload": "UPDATE akool_jobs SET payload = NULL WHERE video_state = 'pending'",
}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_told(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock, rule: str
) -> None:
    settle(ledger)
    assert "rules" not in problems(checked(ledger_url, root, clock))
    execute(ledger_url, BROKEN[rule])
    told_of = [finding.what for finding in checked(ledger_url, root, clock).findings if finding.about == "rules"]
    assert any(rule in what for what in told_of)


def test_tables_that_are_ahead_of_the_ledger_are_told_with_the_way_out(
    ledger: JobLedger, ledger_url: str, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(second_ledger)
    land(second_ledger, place(root))
    report = checked(ledger_url, root, clock)
    found = " ".join(problems(report).values())
    assert second_ledger.ledger_id in problems(report)["identity"]
    assert "3 jobs that the ledger does not know" in found or "higher revision" in found
    assert any("ledger restore" in finding.todo for finding in report.findings)
    track(ledger, A, B, C)
    found = " ".join(finding.what for finding in checked(ledger_url, root, clock).findings)
    assert "3 jobs as ended that the ledger does not" in found


def test_files_of_stored_videos_are_looked_for_when_asked(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    assert "files" not in problems(checked(ledger_url, root, clock))
    assert A in problems(checked(ledger_url, root, clock, files=True))["files"]
    video = place(root) / "akool" / "videos" / OLD_DAY / f"{A}.mp4"
    video.parent.mkdir()
    for content, whole in ((b"mp", False), (b"mp4!", True)):
        video.write_bytes(content)
        report = checked(ledger_url, root, clock, files=True)
        assert ("files" not in problems(report), report.videos_checked) == (whole, 1)


def test_what_waits_is_told_with_the_reason(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    ledger.fail_video(ACCOUNT, VideoFailure(job_id=C, error="the host is down", next_at=NOW))
    track(ledger, "overdue", "odd", "alone", "gone")
    record(ledger, Unreadable(job_id="odd", error="status is not an integer"))
    record(ledger, Missed(job_id="alone", code=1008, alone=True))
    for _ in range(5):
        clock.advance(150)
        record(ledger, Missed(job_id="gone"))
    ledger.hold_polling(ACCOUNT, clock.now_ms() + HOUR)
    clock.advance(700)
    report = checked(ledger_url, root, clock)
    polling = " ".join(finding.what for finding in report.findings if finding.about == "polling")
    assert "3 polls are overdue by more than ten minutes" in polling
    assert "status is not an integer" in polling
    assert "1 jobs are missing" in notices(report)
    assert "polled alone: alone" in notices(report)
    assert "not to be called for another" in notices(report)
    assert "no tick has looked for any" in notices(report)  # of the videos
    assert any("akool_poll_results" in finding.todo for finding in report.findings)


def test_videos_close_to_the_end_of_their_url_are_told_with_their_error(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    ledger.fail_video(ACCOUNT, VideoFailure(job_id=C, error="the host is down", next_at=NOW + HOUR))
    ledger.landings(ACCOUNT).remember({("videos", OLD_DAY): KnownLanding(revision=None, checked_at=0)})
    found = problems(checked(ledger_url, root, clock))
    assert C in found["videos"]
    assert "the host is down" in found["videos"]


# restore


def test_a_file_that_cannot_be_read_is_named_and_the_others_go_on(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    track(ledger, "pending")
    record(ledger, told("pending", 2))
    later = object_id(NOW - DAY, 9)
    track(ledger, later)
    record(ledger, told(later, 4))
    land(ledger, place(root))
    (place(root) / "akool" / "results" / f"{OLD_DAY}.parquet").write_bytes(b"PAR1 cut")
    report = restored(second_ledger, root, clock)
    first, second = report.problems
    assert f"{OLD_DAY}.parquet" in first.what
    assert "3 jobs" in second.what  # whose rows are in no other table in full
    assert {job.job_id for job in second_ledger.iter_jobs(ACCOUNT)} == {"pending", later}
    with pytest.raises(OwnershipError, match="3 jobs"):
        plan_adoption(second_ledger, root, ACCOUNT)


def test_a_job_that_ended_without_its_full_row_in_a_table_is_asked_for_again(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root), tables=["results", "credits", "durations", "statuses"])
    late = object_id(OLD, 9)
    track(ledger, late)
    record(ledger, told(late, 3))
    land(ledger, place(root), tables=["videos"])  # the tables' run was still to come
    report = restored(second_ledger, root, clock)
    assert (report.asked_again, report.problems) == (1, [])
    assert job_of(second_ledger, late).state == "pending"
    record(second_ledger, told(late, 3))
    adopted(second_ledger, root)
    land(second_ledger, place(root))
    assert {row["_id"] for row in rows_of(place(root))["results"]} == {A, B, C, late}


def test_a_file_that_is_not_ours_is_left_alone(ledger: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = place(root) / "akool" / "results"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), folder / f"{OLD_DAY}.parquet")
    (folder / "notes.txt").write_text("mine")
    (folder / "all.parquet").write_text("mine")
    report = restored(ledger, root, clock)
    assert ["not a table of this package" in problem.what for problem in report.problems] == [True]
    assert list(ledger.iter_jobs(ACCOUNT)) == []


def test_an_empty_root_is_not_taken_for_restored(ledger: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    report = restored(ledger, root, clock)
    assert "There are no tables" in report.problems[0].what
    assert report.adoption is None


def test_a_known_job_moves_forward_only(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    track(ledger, A, labels={"campaign": "summer"})
    land(ledger, place(root))
    track(second_ledger, A, B, C, labels={"campaign": "spring", "centre": "ours"})
    record(second_ledger, told(A, 3), told(B, 3))  # B ended otherwise here: that stays
    second_ledger.fail_video(ACCOUNT, VideoFailure(job_id=A, error="gone", next_at=None))
    report = restored(second_ledger, root, clock)
    assert report.outcomes == {Outcome.UPDATED: 1, Outcome.SETTLED: 1, Outcome.UNCHANGED: 1}
    a = job_of(second_ledger, A)
    assert json.loads(a.labels) == {"campaign": "summer", "centre": "ours"}
    assert (a.video_state, a.video_error) == ("stored", None)  # the file is there
    assert job_of(second_ledger, B).state == "completed"
    assert job_of(second_ledger, C).state == "completed"
    assert restored(second_ledger, root, clock).outcomes == {Outcome.UNCHANGED: 3}


def test_a_lost_video_that_is_tried_again_is_not_lost_anew_by_an_older_table(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    ledger.fail_video(ACCOUNT, VideoFailure(job_id=C, error="gone", next_at=None))
    land(ledger, place(root))
    track(ledger, C, again=True)
    before = job_of(ledger, C)
    assert before.video_state == "pending"
    assert restored(ledger, root, clock).outcomes == {Outcome.UNCHANGED: 3}
    assert job_of(ledger, C) == before
    land(ledger, place(root))
    assert [row["video_state"] for row in rows_of(place(root), ACCOUNT)["videos"] if row["_id"] == C] == ["pending"]


def test_a_ledger_that_landed_elsewhere_is_not_mixed_with_another_deployments_unless_meant(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    second_ledger.landings(ACCOUNT).note_first()
    with pytest.raises(OwnershipError, match="restore --foreign"):
        restored(second_ledger, root, clock)
    assert list(second_ledger.iter_jobs(ACCOUNT)) == []
    assert restored(second_ledger, root, clock, foreign=True).outcomes == {Outcome.ADDED: 3}


# adopt


def test_adopting_again_after_a_crash_before_the_mark_ends_in_the_same_place(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    restored(second_ledger, root, clock)
    plan = plan_adoption(second_ledger, root, ACCOUNT)
    second_ledger.landings(ACCOUNT).land_anew(0, 2**62, above=plan.revision)  # and then the machine stopped
    assert read_mark(root, ACCOUNT) == Mark(ledger_id=ledger.ledger_id)
    adopted(second_ledger, root)
    assert read_mark(root, ACCOUNT) == Mark(ledger_id=second_ledger.ledger_id, adopted=(ledger.ledger_id,))
    assert plan_adoption(second_ledger, root, ACCOUNT).reason is None
    assert second_ledger.landings(ACCOUNT).have_begun()
    land(second_ledger, place(root))


def test_a_root_that_goes_back_and_forth_keeps_everybody_it_ever_belonged_to(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    restored(second_ledger, root, clock)
    adopted(second_ledger, root)
    adopted(ledger, root)
    assert read_mark(root, ACCOUNT) == Mark(ledger_id=ledger.ledger_id, adopted=(second_ledger.ledger_id,))
    before = rows_of(place(root))
    land(ledger, place(root))
    assert rows_of(place(root)) == before


def test_a_mark_that_cannot_be_read_is_written_anew(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    (place(root) / "akool" / "ledger.json").write_text("{")
    assert "identity" in problems(checked(ledger_url, root, clock))
    adopted(ledger, root)
    assert read_mark(root, ACCOUNT) == Mark(ledger_id=ledger.ledger_id)


# prune


def test_only_what_the_tables_hold_too_is_dropped(ledger: JobLedger, root: StorageRoot, clock: FakeClock) -> None:
    settle(ledger)
    land(ledger, place(root))
    unlanded, young = object_id(OLD, 8), object_id(NOW - DAY, 9)
    track(ledger, unlanded, young)
    record(ledger, told(unlanded, 4), told(young, 4))
    land_partition(ledger, place(root), ACCOUNT, "2025-10-08")
    before = {job.job_id: job for job in ledger.iter_jobs(ACCOUNT)}
    length = sum(len(before[job_id].payload or "") for job_id in (A, B))
    report = pruned(ledger, root, clock, dry_run=True)
    assert (report.pruned.payloads, report.pruned.bytes, report.kept) == (2, length, 2)
    assert {job.job_id: job for job in ledger.iter_jobs(ACCOUNT)} == before
    assert pruned(ledger, root, clock).pruned == report.pruned
    after = {job.job_id: job for job in ledger.iter_jobs(ACCOUNT)}
    assert {job_id for job_id, job in after.items() if job.payload is None} == {A, B}
    assert [job.labels for job in after.values()] == [job.labels for job in before.values()]
    assert pruned(ledger, root, clock).pruned.payloads == 0


def test_what_lies_in_a_partition_that_is_not_as_old_is_not_counted_as_kept(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    day_after, noon = OLD + DAY, 43_200
    early = object_id(day_after - day_after % DAY, 8)
    track(ledger, early)
    record(ledger, told(early, 4))
    land_partition(ledger, place(root), ACCOUNT, "2025-08-31")
    clock.advance((day_after - day_after % DAY + 30 * DAY - clock.now_ms()) / 1000 + noon)
    assert pruned(ledger, root, clock).kept == 1  # C, whose video is not settled


def test_a_job_that_changed_since_it_landed_keeps_its_payload(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    track(ledger, B, labels={"campaign": "summer"})
    pruned(ledger, root, clock)
    assert job_of(ledger, B).payload is not None
    assert job_of(ledger, A).payload is None


def test_without_parquet_files_of_the_results_nothing_is_dropped(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    with pytest.raises(OwnershipError, match="Nothing was pruned"):  # nothing has landed here
        pruned(ledger, root, clock)
    write_mark(root, ACCOUNT, Mark(ledger_id=ledger.ledger_id))
    land(ledger, place(root), tables=["statuses", "credits", "videos"])
    assert (pruned(ledger, root, clock).pruned.payloads, pruned(ledger, root, clock).kept) == (0, 3)


def test_restoring_fills_pruned_payloads_in_and_lands_the_same_rows(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    before, heads = rows_of(place(root)), ledger.heads(ACCOUNT)
    payload = job_of(ledger, B).payload
    pruned(ledger, root, clock)
    assert "2 ended jobs have no payload" in notices(checked(ledger_url, root, clock))
    assert restored(ledger, root, clock).outcomes == {Outcome.FILLED: 2, Outcome.UNCHANGED: 1}
    assert job_of(ledger, B).payload == payload
    assert ledger.heads(ACCOUNT) == heads  # nothing asks for a landing
    land(ledger, place(root))
    assert rows_of(place(root)) == before
