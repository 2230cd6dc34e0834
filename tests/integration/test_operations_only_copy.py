"""Conformance: what pruned payloads and landed days are when a file that shows them is damaged, changed or gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from akool_dagster.landing import Granularity
from akool_dagster.ledger.restoring import Outcome
from akool_dagster.operations.restore import restore

from akool_dagster import TABLES, JobLedger
from akool_dagster.ledger.records import KnownLanding, VideoFailure
from akool_dagster.operations.check import CheckReport
from akool_dagster.operations.findings import Finding, Level
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, DAY, NOW, job_of, lose, object_id, record, track
from tests.integration.operations_words import (
    OLD,
    OLD_DAY,
    A,
    B,
    C,
    checked,
    notices,
    place,
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


@pytest.fixture
def results(ledger: JobLedger, root: StorageRoot, clock: FakeClock) -> Path:
    """Give the file of the results of a day that landed, and of which A and B were pruned since."""
    settle(ledger)
    land(ledger, place(root))
    assert pruned(ledger, root, clock).pruned.payloads == 2
    return place(root) / ACCOUNT / "results" / f"{OLD_DAY}.parquet"


def about_tables(report: CheckReport, level: Level = Level.PROBLEM) -> list[Finding]:
    return [finding for finding in report.findings if finding.about == "tables" and finding.level == level]


def spoil(file: Path, column: str) -> None:
    """Damage one column of a file; the others can be read as before."""
    parts = pq.read_metadata(file).row_group(0)
    (part,) = (p for p in map(parts.column, range(parts.num_columns)) if p.path_in_schema == column)
    with file.open("r+b") as opened:
        opened.seek(part.dictionary_page_offset or part.data_page_offset)
        opened.write(b"\xff" * part.total_compressed_size)


def drop_rows(file: Path) -> None:
    pq.write_table(pq.read_table(file).slice(0, 0), file)


# A file that cannot be read


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"PAR1 cut"), lambda file: spoil(file, "extra")])
def test_an_unreadable_file_of_a_pruned_day_is_to_be_brought_back_and_nothing_else(
    ledger_url: str, root: StorageRoot, clock: FakeClock, results: Path, damage: Callable[[Path], object]
) -> None:
    damage(results)
    unreadable, gone = about_tables(checked(ledger_url, root, clock))
    assert "only copy of 2 payloads" in unreadable.what
    assert "unless its day was pruned" in unreadable.what
    assert "backup" in unreadable.todo
    assert not any(word in unreadable.todo.lower() for word in ("materialize", "landing", "away"))
    assert gone.what.startswith("2 jobs whose payloads were pruned")


def test_an_unreadable_file_of_any_other_day_may_land_anew(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock, results: Path
) -> None:
    for file in (results.parents[1] / "credits" / results.name, results.with_name("2025-08-31.parquet")):
        file.write_bytes(b"PAR1 cut")
    found = about_tables(checked(ledger_url, root, clock))
    assert ["only copy" in finding.what for finding in found] == [False, False]
    assert all("a new landing of its partition" in finding.todo for finding in found)


def test_a_file_with_a_column_that_cannot_be_read_is_no_reason_to_prune(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    spoil(place(root) / ACCOUNT / "results" / f"{OLD_DAY}.parquet", "extra")
    report = pruned(ledger, root, clock)
    assert (report.pruned.payloads, len(report.problems)) == (0, 1)
    assert job_of(ledger, B).payload is not None


# Rows that are gone


@pytest.mark.parametrize("lose_rows", [Path.unlink, drop_rows, lambda file: shutil.rmtree(file.parents[1])])
def test_pruned_jobs_that_no_file_shows_any_more_are_a_problem_until_the_file_is_back(
    ledger: JobLedger,
    ledger_url: str,
    root: StorageRoot,
    clock: FakeClock,
    results: Path,
    lose_rows: Callable[[Path], object],
) -> None:
    assert about_tables(checked(ledger_url, root, clock)) == []
    copy = shutil.copytree(place(root), place(root).with_name("copy"))
    lose_rows(results)
    (gone,) = (one for one in about_tables(checked(ledger_url, root, clock)) if "pruned" in one.what)
    assert f"2 jobs whose payloads were pruned are in no readable file of {root.uri(ACCOUNT)}/results" in gone.what
    assert f"{A}, {B}" in gone.what
    assert "backup" in gone.todo
    assert "ledger restore" in gone.todo
    shutil.copytree(copy, place(root), dirs_exist_ok=True)
    assert about_tables(checked(ledger_url, root, clock)) == []


@pytest.mark.parametrize("partitions", [[], [OLD_DAY]], ids=["all", "that day"])
@pytest.mark.parametrize("lost", [[], ["credits"], sorted(TABLES)], ids=["results", "and credits", "everything"])
def test_what_stays_without_its_payload_after_restoring_is_a_problem_and_nobody_is_said_to_be_asked(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, results: Path, partitions: list[str], lost: list[str]
) -> None:
    young = object_id(NOW - DAY, 9)
    track(ledger, young)
    record(ledger, told(young, 4))
    land_partition(ledger, place(root), ACCOUNT, "2025-10-08")
    before = list(ledger.iter_jobs(ACCOUNT))
    for table in {"results", *lost}:
        results.parents[1].joinpath(table, results.name).unlink(missing_ok=True)
    for dry_run in (True, False):
        report = restore(ledger, root, ACCOUNT, clock=clock, dry_run=dry_run, partitions=partitions)
        (left,) = (problem for problem in report.problems if problem.about == "pruned")
        assert left.what.startswith("2 ended jobs still have no payload")
        assert f"{A}, {B}" in left.what
        assert "backup" in left.todo
        assert report.asked_again == 0
        assert list(ledger.iter_jobs(ACCOUNT)) == before
    other_day = restore(ledger, root, ACCOUNT, clock=clock, partitions=["2025-10-08"])
    assert [problem for problem in other_day.problems if problem.about == "pruned"] == []


def test_a_pruned_job_is_not_filled_in_from_tables_that_have_only_a_part_of_it(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, results: Path
) -> None:
    shutil.rmtree(results.parent)  # so that nothing tells that there ever were results
    report = restored(ledger, root, clock)
    assert (job_of(ledger, A).payload, Outcome.FILLED in report.outcomes) == (None, False)
    assert report.problems[0].what.startswith("2 ended jobs still have no payload")


def test_a_dry_run_does_not_count_what_would_be_filled_in_as_left(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, results: Path
) -> None:
    report = restore(ledger, root, ACCOUNT, clock=clock, dry_run=True)
    assert (report.outcomes[Outcome.FILLED], report.problems) == (2, [])
    assert job_of(ledger, A).payload is None
    assert restored(ledger, root, clock).problems == []


def test_an_unreadable_file_of_a_pruned_day_is_not_to_be_moved_away_for_restoring(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock, results: Path
) -> None:
    results.write_bytes(b"PAR1 cut")
    report = restored(ledger, root, clock)
    assert [problem.about for problem in report.problems] == ["tables", "pruned"]  # nobody was left out
    assert not any("away" in problem.todo for problem in report.problems)


# Whom Akool is asked about again


def test_only_jobs_that_are_polled_count_as_asked_for_again(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root), tables=["results", "credits", "durations", "statuses"])
    unknown, pending, ended, missing = (object_id(OLD, number) for number in (5, 6, 7, 8))
    track(ledger, unknown, pending, ended, missing)
    record(ledger, *(told(job_id, 3) for job_id in (unknown, pending, ended, missing)))
    land(ledger, place(root), tables=["videos"])  # the run of the others was still to come
    track(second_ledger, pending, ended, missing)
    record(second_ledger, told(ended, 3))
    lose(second_ledger, clock, missing)
    for dry_run in (True, False):
        report = restore(second_ledger, root, ACCOUNT, clock=clock, dry_run=dry_run)
        assert (report.asked_again, report.problems) == (3, []), dry_run
    states = {job_id: job_of(second_ledger, job_id).state for job_id in (unknown, pending, ended, missing)}
    assert states == {unknown: "pending", pending: "pending", ended: "completed", missing: "pending"}
    assert second_ledger.inspection(ACCOUNT).broken_rules() == []
    assert {unknown, pending, missing} <= {job.job_id for job in second_ledger.claim(ACCOUNT, 10)}


def test_a_job_that_an_older_table_shows_as_missing_and_a_newer_one_as_ended_is_polled(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    late = object_id(OLD, 5)
    track(ledger, late)
    lose(ledger, clock, late)
    land(ledger, place(root))
    track(ledger, late, again=True)
    record(ledger, told(late, 3))
    land(ledger, place(root), tables=["videos"])
    assert restored(second_ledger, root, clock).asked_again == 1
    assert job_of(second_ledger, late).state == "pending"


# Files of days that landed


def remember(ledger: JobLedger, kind: str, *keys: str, revision: int | None = 1) -> None:
    ledger.landings(ACCOUNT).remember({(kind, key): KnownLanding(revision=revision, checked_at=NOW) for key in keys})


def test_a_file_of_a_landed_day_that_is_gone_is_noticed(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    remember(ledger, "tables", OLD_DAY, "2025-08-31")
    remember(ledger, "videos", OLD_DAY)
    assert "not in" not in notices(checked(ledger_url, root, clock))  # another IO manager keeps them
    settle(ledger)
    young = object_id(NOW - DAY, 9)
    track(ledger, young)
    record(ledger, told(young, 4))
    land(ledger, place(root))
    remember(ledger, "tables", "2025-10-08")
    remember(ledger, "tables", "2025-08-31", revision=None)  # it never landed
    assert "not in" not in notices(checked(ledger_url, root, clock))
    for table in ("credits", "videos"):
        (place(root) / ACCOUNT / table / f"{OLD_DAY}.parquet").unlink()
    report = checked(ledger_url, root, clock)
    first, second = about_tables(report, Level.NOTICE)
    assert f"1 partitions have landed, and their file is not in {root.uri(ACCOUNT)}/credits: {OLD_DAY}." in first.what
    assert "akool/videos" in second.what
    assert "materialize" in first.todo
    assert about_tables(report) == []


def test_hours_are_found_under_the_names_of_their_files(
    ledger: JobLedger, ledger_url: str, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root), granularity=Granularity.HOURLY)
    (file,) = (place(root) / ACCOUNT / "results").iterdir()
    hour = f"{file.stem[:-2]}:{file.stem[-2:]}"
    remember(ledger, "tables", hour)
    assert "not in" not in notices(checked(ledger_url, root, clock))
    remember(ledger, "tables", "2025-08-31-07:00")
    assert "2025-08-31-07:00" in notices(checked(ledger_url, root, clock))


# A newer URL


def test_a_job_whose_url_was_renewed_after_its_landing_is_pruned_and_comes_back_with_the_newer_url(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    newer = told(C, 3, video_url="https://cdn.example/again.mp4")
    ledger.keep_video_url(ACCOUNT, C, "https://cdn.example/again.mp4", newer.video_expires_at)
    ledger.store_video(ACCOUNT, C, {"path": f"akool/videos/{OLD_DAY}/{C}.mp4", "bytes": 4})
    assert pruned(ledger, root, clock).pruned.payloads == 2
    assert json.loads(job_of(ledger, C).payload or "") == json.loads(newer.payload)  # no file has the newer URL yet
    # Those who are pruned do not land anew; in life the manifest lands with the run that renewed the URL.
    assert restored(ledger, root, clock).outcomes[Outcome.FILLED] == 2
    land(ledger, place(root), tables=["videos"])
    assert pruned(ledger, root, clock).pruned.payloads == 3
    assert job_of(ledger, C).payload is None
    assert restored(ledger, root, clock).outcomes == {Outcome.FILLED: 3}
    assert json.loads(job_of(ledger, C).payload or "") == json.loads(newer.payload)
    land(ledger, place(root))
    assert {row["video_url"] for row in rows_of(place(root))["results"] if row["_id"] == C} == {
        "https://cdn.example/again.mp4"
    }


def test_a_job_that_was_relabelled_after_its_landing_is_not_pruned_by_a_newer_manifest(
    ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    ledger.fail_video(ACCOUNT, VideoFailure(job_id=C, error="gone", next_at=None))
    land(ledger, place(root))
    track(ledger, B, labels={"campaign": "summer"})
    land(ledger, place(root), tables=["videos"])
    assert pruned(ledger, root, clock).pruned.payloads == 2
    assert job_of(ledger, B).payload is not None


# Text that no database holds


def rewrite(file: Path, column: str, values: dict[str, str]) -> None:
    """Write other values into one column of a table's file."""
    table = pq.read_table(file)
    ids, old = table.column("_id").to_pylist(), table.column(column).to_pylist()
    new = [values.get(job_id, value) for job_id, value in zip(ids, old, strict=True)]
    index = table.schema.get_field_index(column)
    pq.write_table(table.set_column(index, table.schema.field(column), [new]), file)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("results", "extra", r'{"note": "\ud800"}'),
        ("results", "extra", r'{"\udfff": 1}'),
        ("statuses", "failure_reason", "no\0face"),
        ("results", "extra", r'{"error_reason": "no\u0000face"}'),
        ("results", "labels", r'{"campaign": "\ud800"}'),
        ("results", "labels", r'{"campaign": "\u0000"}'),
    ],
)
def test_a_row_with_text_that_no_database_holds_is_named_and_the_others_go_on(
    ledger: JobLedger,
    second_ledger: JobLedger,
    root: StorageRoot,
    clock: FakeClock,
    table: str,
    column: str,
    value: str,
) -> None:
    settle(ledger)
    land(ledger, place(root))
    folder = place(root) / ACCOUNT
    rewrite(folder / table / f"{OLD_DAY}.parquet", column, {B: value})
    for name in {"labels": ["credits", "statuses"], "extra": ["statuses"]}.get(column, []):
        (folder / name / f"{OLD_DAY}.parquet").unlink()
    report = restored(second_ledger, root, clock)
    (odd,) = report.problems
    assert f"Job '{B}'" in odd.what
    assert {job.job_id for job in second_ledger.iter_jobs(ACCOUNT)} == {A, C}


def test_a_nul_inside_what_akool_sent_is_restored_as_an_escape(
    ledger: JobLedger, second_ledger: JobLedger, root: StorageRoot, clock: FakeClock
) -> None:
    settle(ledger)
    land(ledger, place(root))
    rewrite(place(root) / ACCOUNT / "results" / f"{OLD_DAY}.parquet", "prompt", {B: "a\0b"})
    assert restored(second_ledger, root, clock).problems == []
    assert json.loads(job_of(second_ledger, B).payload or "")["prompt"] == "a\0b"
