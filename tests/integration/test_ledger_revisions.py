"""Conformance: the tables never go back, because every change that they show takes a growing revision."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from akool_dagster.ledger import JobLedger, Missed, Unreadable
from akool_dagster.ledger.records import HourHead, VideoFailure
from tests.clock import FakeClock
from tests.integration.ledger_words import (
    ACCOUNT,
    DAY,
    HOUR,
    NOW,
    answered,
    complete,
    job_of,
    lose,
    nth,
    object_id,
    record,
    track,
)
from tests.simulation.ledgers import LedgerDatabase

pytest_plugins = ["tests.integration.ledger_databases"]

Change = Callable[[JobLedger, FakeClock], object]

THIS_HOUR = NOW - NOW % HOUR


def _abandon(ledger: JobLedger, clock: FakeClock) -> None:
    clock.advance(7 * DAY / 1000)
    record(ledger, answered("a", 1))
    record(ledger, answered("a", 1))


SHOWN_AND_ASKING: dict[str, Change] = {
    "completed": lambda ledger, clock: record(ledger, answered("a", 3)),
    "failed": lambda ledger, clock: record(ledger, answered("a", 4)),
    "missing": lambda ledger, clock: lose(ledger, clock, "a", code=1008),
    "abandoned": _abandon,
    "relabelled": lambda ledger, clock: track(ledger, "a", labels={"k": "v"}),
}
SHOWN_ONLY: dict[str, Change] = {
    "processing": lambda ledger, clock: record(ledger, answered("a", 2)),
    "an unknown status": lambda ledger, clock: record(ledger, answered("a", 42)),
}
NOT_SHOWN: dict[str, Change] = {
    "the same status again": lambda ledger, clock: record(ledger, answered("a", 1, payload='{"prompt":"new"}')),
    "a miss": lambda ledger, clock: record(ledger, Missed(job_id="a", code=1003, alone=True)),
    "an unreadable row": lambda ledger, clock: record(ledger, Unreadable(job_id="a", error="odd")),
    "a claim": lambda ledger, clock: ledger.claim(ACCOUNT, 10),
    "a release": lambda ledger, clock: ledger.release(ACCOUNT, ["a"], until=0),
    "tracked again": lambda ledger, clock: track(ledger, "a", again=True),
    "a hold": lambda ledger, clock: ledger.hold_polling(ACCOUNT, NOW + DAY),
    "a lease": lambda ledger, clock: ledger.leases(ACCOUNT).take("tables", "2025-10-09", "run"),
}


@pytest.fixture
def queueing(ledger: JobLedger) -> JobLedger:
    """Give a ledger whose job ``a`` was seen queueing, at its second revision."""
    track(ledger, "a")
    record(ledger, answered("a", 1))
    assert ledger.revision() == nth(2)
    return ledger


def test_a_new_ledger_is_at_revision_0_and_has_no_heads(ledger: JobLedger) -> None:
    assert (ledger.revision(), ledger.heads(ACCOUNT)) == (0, [])


def test_a_tracked_job_is_shown_but_asks_for_no_landing(ledger: JobLedger) -> None:
    track(ledger, "a", "b")
    assert ledger.revision() == nth(1)
    assert {(job.revision, job.head) for job in ledger.iter_jobs(ACCOUNT)} == {(nth(1), 0)}
    assert ledger.heads(ACCOUNT) == []


@pytest.mark.parametrize("change", SHOWN_AND_ASKING.values(), ids=SHOWN_AND_ASKING.keys())
def test_a_settled_lost_or_relabelled_job_asks_for_a_landing(
    queueing: JobLedger, clock: FakeClock, change: Change
) -> None:
    change(queueing, clock)
    job = job_of(queueing, "a")
    revision = queueing.revision()
    assert revision == max(nth(3), clock.now_ms())
    assert (job.revision, job.head) == (revision, revision)
    assert [(hour.hour_at, hour.head) for hour in queueing.heads(ACCOUNT)] == [(THIS_HOUR, revision)]


def test_a_reopened_job_asks_for_a_landing(queueing: JobLedger, clock: FakeClock) -> None:
    lose(queueing, clock, "a", code=1008)
    lost = queueing.revision()
    track(queueing, "a", again=True)
    assert (job_of(queueing, "a").revision, job_of(queueing, "a").head) == (lost + 1, lost + 1)
    assert queueing.heads(ACCOUNT) == [HourHead(hour_at=THIS_HOUR, head=lost + 1, video_head=0)]


@pytest.mark.parametrize("change", SHOWN_ONLY.values(), ids=SHOWN_ONLY.keys())
def test_a_status_seen_is_shown_but_asks_for_no_landing(queueing: JobLedger, clock: FakeClock, change: Change) -> None:
    change(queueing, clock)
    job = job_of(queueing, "a")
    assert (queueing.revision(), job.revision, job.head) == (nth(3), nth(3), 0)
    assert queueing.heads(ACCOUNT) == []


@pytest.mark.parametrize("change", NOT_SHOWN.values(), ids=NOT_SHOWN.keys())
def test_what_no_table_shows_takes_no_revision(queueing: JobLedger, clock: FakeClock, change: Change) -> None:
    before = job_of(queueing, "a")
    change(queueing, clock)
    after = job_of(queueing, "a")
    assert (queueing.revision(), after.revision, after.head) == (nth(2), before.revision, before.head)
    assert queueing.heads(ACCOUNT) == []


def test_everything_of_one_call_shares_one_revision_and_the_rest_keeps_its_own(ledger: JobLedger) -> None:
    track(ledger, "a", "b", "c")
    record(ledger, answered("a", 3), answered("b", 4))
    assert {job.job_id: job.revision for job in ledger.iter_jobs(ACCOUNT)} == {"a": nth(2), "b": nth(2), "c": nth(1)}


def test_the_head_of_an_hour_is_the_highest_of_its_jobs(ledger: JobLedger) -> None:
    start = NOW - NOW % HOUR - 5 * HOUR
    early, late, other = object_id(start), object_id(start + HOUR - 1000), object_id(start + HOUR)
    track(ledger, early, late, other)
    for job_id in (late, other, early):
        record(ledger, answered(job_id, 4))
    assert ledger.heads(ACCOUNT) == [
        HourHead(hour_at=start, head=nth(4), video_head=0),
        HourHead(hour_at=start + HOUR, head=nth(3), video_head=0),
    ]


def test_a_video_moves_its_own_revision_and_only_its_end_moves_the_head(ledger: JobLedger) -> None:
    complete(ledger, "a")
    assert ledger.heads(ACCOUNT) == [HourHead(hour_at=THIS_HOUR, head=nth(2), video_head=nth(2))]
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="cut short", next_at=NOW))
    job = job_of(ledger, "a")
    assert (job.revision, job.head, job.video_revision, job.video_head) == (nth(2), nth(2), nth(3), nth(2))
    ledger.store_video(ACCOUNT, "a", {"path": "a.mp4"})
    job = job_of(ledger, "a")
    assert (job.revision, job.head, job.video_revision, job.video_head) == (nth(2), nth(2), nth(4), nth(4))
    assert ledger.heads(ACCOUNT) == [HourHead(hour_at=THIS_HOUR, head=nth(2), video_head=nth(4))]


def test_a_new_url_is_kept_and_shown_but_asks_for_no_landing(ledger: JobLedger) -> None:
    track(ledger, "a")
    record(ledger, answered("a", 3, payload='{"_id":"a","status":3,"video_url":"https://cdn.example/1"}'))
    before, heads = job_of(ledger, "a"), ledger.heads(ACCOUNT)
    ledger.keep_video_url(ACCOUNT, "a", "https://cdn.example/2", NOW)
    job = job_of(ledger, "a")
    assert job == replace(before, payload=job.payload, revision=nth(3))
    assert json.loads(job.payload or "") == {"_id": "a", "status": 3, "video_url": "https://cdn.example/2"}
    assert ledger.heads(ACCOUNT) == heads


def test_the_first_url_of_a_job_that_completed_without_one_asks_for_a_landing(ledger: JobLedger) -> None:
    complete(ledger, "a")
    ledger.keep_video_url(ACCOUNT, "a", "https://cdn.example/1", NOW, is_first=True)
    assert (job_of(ledger, "a").revision, job_of(ledger, "a").head) == (nth(3), nth(3))
    assert ledger.heads(ACCOUNT) == [HourHead(hour_at=THIS_HOUR, head=nth(3), video_head=nth(2))]


@pytest.mark.parametrize("status", [None, 3, 4], ids=["pending", "completed", "failed"])
def test_what_is_no_new_url_of_a_completed_job_changes_nothing(ledger: JobLedger, status: int | None) -> None:
    track(ledger, "a")
    if status is not None:
        record(ledger, answered("a", status, payload='{"video_url":"https://cdn.example/1"}'))
    before, revision = job_of(ledger, "a"), ledger.revision()
    ledger.keep_video_url(ACCOUNT, "a", "https://cdn.example/1", NOW + 99 * DAY)
    ledger.keep_video_url(ACCOUNT, "unknown", "https://cdn.example/2", NOW)
    assert (job_of(ledger, "a"), ledger.revision()) == (before, revision)


def test_a_snapshot_has_the_jobs_of_its_stretch_sorted_and_their_highest_revisions(ledger: JobLedger) -> None:
    start = NOW - DAY
    ids = [object_id(start - 1000), object_id(start), object_id(start + HOUR - 1000), object_id(start + HOUR)]
    track(ledger, *ids)
    for job_id in ids:
        record(ledger, answered(job_id, 3))
    ledger.store_video(ACCOUNT, ids[1], {})
    snapshot = ledger.snapshot(ACCOUNT, start, start + HOUR)
    assert [job.job_id for job in snapshot.jobs] == ids[1:3]
    assert (snapshot.ledger_id, snapshot.revision, snapshot.video_revision) == (ledger.ledger_id, nth(4), nth(6))


def test_a_snapshot_sorts_by_code_point_whatever_the_database_does(ledger: JobLedger, clock: FakeClock) -> None:
    ids = ["b", "aa", "a_b", "a-b", "Z", "A", "0"]
    for job_id in ids:
        track(ledger, job_id)
        clock.advance(1)
    assert [job.job_id for job in ledger.snapshot(ACCOUNT, 0, clock.now_ms()).jobs] == sorted(ids)


def test_a_snapshot_of_an_empty_stretch_is_empty(ledger: JobLedger) -> None:
    track(ledger, "a")
    snapshot = ledger.snapshot(ACCOUNT, 0, NOW)
    assert (snapshot.revision, snapshot.video_revision, list(snapshot.jobs)) == (0, 0, [])


def test_a_partition_that_lands_anew_stands_above_what_was_met_and_the_others_stay(ledger: JobLedger) -> None:
    here, elsewhere = object_id(NOW - HOUR), object_id(NOW - 2 * DAY)
    complete(ledger, here, elsewhere)
    before = job_of(ledger, elsewhere)
    ledger.landings(ACCOUNT).land_anew(NOW - 5 * HOUR, NOW + HOUR, above=NOW + 1000)
    assert ledger.revision() == NOW + 1001
    job = job_of(ledger, here)
    assert (job.revision, job.head, job.video_revision, job.video_head) == (NOW + 1001,) * 4
    assert max(hour.head for hour in ledger.heads(ACCOUNT)) == NOW + 1001
    assert job_of(ledger, elsewhere) == before
    ledger.landings(ACCOUNT).land_anew(NOW - 5 * HOUR, NOW + HOUR, above=10)
    assert ledger.revision() == NOW + 1002  # the counter never goes back


def test_a_ledger_put_back_to_a_backup_gives_no_revision_that_it_gave_before(
    ledger: JobLedger, ledger_url: str, clock: FakeClock
) -> None:
    track(ledger, "a")
    database = LedgerDatabase(ledger_url)
    backup = database.backup()
    for label in ("one", "two", "three"):
        clock.advance(0.01)
        track(ledger, "a", labels={"campaign": label})
    landed = ledger.revision()
    database.put_back(backup)
    database.close()
    assert ledger.revision() == nth(1)
    clock.advance(0.01)
    record(ledger, answered("a", 4))
    assert job_of(ledger, "a").head > landed


def test_a_job_that_asked_for_no_landing_asks_for_none_when_its_partition_lands_anew(ledger: JobLedger) -> None:
    track(ledger, "pending")
    ledger.landings(ACCOUNT).land_anew(0, 2**53, above=50)
    assert (job_of(ledger, "pending").head, ledger.heads(ACCOUNT)) == (0, [])
