"""Conformance: the account in numbers, and what the event log last said."""

from __future__ import annotations

from akool_dagster.ledger import Counts, JobLedger, Unreadable
from akool_dagster.ledger.records import KnownLanding, VideoFailure
from tests.clock import FakeClock
from tests.integration.ledger_words import (
    ACCOUNT,
    DAY,
    HOUR,
    NOW,
    answered,
    complete,
    lose,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def test_an_empty_account_counts_nothing(ledger: JobLedger) -> None:
    assert ledger.counts(ACCOUNT) == Counts(
        states={},
        pending_statuses={},
        videos={},
        oldest_pending_ms=None,
        due=0,
        overdue=0,
        before_first_partition=0,
        after_current_partition=0,
        videos_waiting=0,
    )
    assert ledger.counts(ACCOUNT).pending == 0


def test_every_kind_of_job_is_counted_under_its_name(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "gone")
    lose(ledger, clock, "gone")
    complete(ledger, "stored", "lost", "waiting")
    ledger.store_video(ACCOUNT, "stored", {})
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="lost", error="404", next_at=None))
    track(ledger, "failed", "queueing", "processing", "urlless", "odd", "new")
    record(
        ledger,
        answered("failed", 4),
        answered("queueing", 1),
        answered("processing", 2),
        answered("urlless", 3, url=False),
        answered("odd", 9),
        Unreadable(job_id="new", error="odd"),
    )
    counts = ledger.counts(ACCOUNT)
    assert counts.states == {"missing": 1, "completed": 3, "failed": 1, "pending": 5}
    assert counts.pending_statuses == {"queueing": 1, "processing": 1, "completed": 1, "unknown": 1, "unseen": 1}
    assert counts.videos == {"stored": 1, "lost": 1, "pending": 1}
    assert counts.pending == 5


def test_videos_whose_next_attempt_is_not_due_are_counted(ledger: JobLedger, clock: FakeClock) -> None:
    complete(ledger, "a", "b")
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="429", next_at=clock.now_ms() + 30_000))
    assert ledger.counts(ACCOUNT).videos_waiting == 1
    clock.advance(30)
    assert ledger.counts(ACCOUNT).videos_waiting == 0


def test_a_job_is_overdue_ten_minutes_after_it_was_due(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a")
    assert (ledger.counts(ACCOUNT).due, ledger.counts(ACCOUNT).overdue) == (1, 0)
    clock.advance(599.999)
    assert (ledger.counts(ACCOUNT).due, ledger.counts(ACCOUNT).overdue) == (1, 0)
    clock.advance(0.001)
    assert (ledger.counts(ACCOUNT).due, ledger.counts(ACCOUNT).overdue) == (1, 1)
    ledger.claim(ACCOUNT, 1)
    assert (ledger.counts(ACCOUNT).due, ledger.counts(ACCOUNT).overdue) == (0, 0)


def test_the_oldest_pending_job_is_the_one_watched_longest(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a")
    clock.advance(60)
    track(ledger, "b", object_id(NOW - DAY))
    clock.advance(40)
    assert ledger.counts(ACCOUNT).oldest_pending_ms == 100_000
    record(ledger, answered("a", 4))
    assert ledger.counts(ACCOUNT).oldest_pending_ms == 40_000
    clock.jump(-3600)
    assert ledger.counts(ACCOUNT).oldest_pending_ms == 0


def test_jobs_before_the_first_partition_are_counted(ledger: JobLedger) -> None:
    start = NOW - DAY
    complete(ledger, object_id(start - 1000), object_id(start), object_id(start + HOUR))
    assert ledger.counts(ACCOUNT, start).before_first_partition == 1
    assert ledger.counts(ACCOUNT, 0).before_first_partition == 0


def test_jobs_that_lie_in_a_partition_to_come_are_counted(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "now")
    clock.jump(3 * DAY / 1000)
    track(ledger, "ahead")
    clock.jump(-3 * DAY / 1000)
    assert ledger.counts(ACCOUNT, 0, NOW + DAY).after_current_partition == 1
    assert ledger.counts(ACCOUNT, 0, NOW + 4 * DAY).after_current_partition == 0
    assert ledger.counts(ACCOUNT).after_current_partition == 0


def test_the_last_word_of_the_event_log_replaces_the_one_before(ledger: JobLedger) -> None:
    assert ledger.landings(ACCOUNT).known() == {}
    ledger.landings(ACCOUNT).remember({})
    never = KnownLanding(revision=None, checked_at=NOW)
    old, new = KnownLanding(revision=7, checked_at=NOW), KnownLanding(revision=5, checked_at=NOW + 1)
    tables, videos = ("tables", "2025-10-09"), ("videos", "2025-10-09")
    ledger.landings(ACCOUNT).remember({tables: old, videos: never})
    ledger.landings("other").remember({tables: never})
    ledger.landings(ACCOUNT).remember({tables: new})
    assert ledger.landings(ACCOUNT).known() == {tables: new, videos: never}
