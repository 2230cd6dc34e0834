"""Conformance: the account in numbers."""

from __future__ import annotations

from akool_dagster.ledger import AccountLedger, Counts, Unreadable, VideoState
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    DAY,
    HOUR,
    NOW,
    answered,
    complete,
    fail,
    go_missing,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def test_an_empty_account_counts_nothing(account: AccountLedger) -> None:
    assert account.counts() == Counts(
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
    assert account.counts().pending == 0


def test_every_kind_of_job_is_counted_under_its_name(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "gone")
    go_missing(account, clock, "gone")
    complete(account, "stored", "lost", "waiting")
    account.videos.store("stored", {})
    fail(account, "lost")
    track(account, "failed", "queueing", "processing", "urlless", "odd", "new")
    record(
        account,
        answered("failed", 4),
        answered("queueing", 1),
        answered("processing", 2),
        answered("urlless", 3, url=False),
        answered("odd", 9),
        Unreadable(job_id="new", error="odd"),
    )
    counts = account.counts()
    assert counts.states == {"missing": 1, "completed": 3, "failed": 1, "pending": 5}
    assert counts.pending_statuses == {"queueing": 1, "processing": 1, "completed": 1, "unknown": 1, "unseen": 1}
    assert counts.videos == {"stored": 1, "lost": 1, "pending": 1}
    assert counts.pending == 5


def test_videos_whose_next_attempt_is_not_due_are_counted(account: AccountLedger, clock: FakeClock) -> None:
    complete(account, "a", "b")
    fail(account, "a", VideoState.PENDING, next_at=clock.now_ms() + 30_000)
    assert account.counts().videos_waiting == 1
    clock.advance(30)
    assert account.counts().videos_waiting == 0


def test_a_job_is_overdue_ten_minutes_after_it_was_due(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "a")
    assert (account.counts().due, account.counts().overdue) == (1, 0)
    clock.advance(599.999)
    assert (account.counts().due, account.counts().overdue) == (1, 0)
    clock.advance(0.001)
    assert (account.counts().due, account.counts().overdue) == (1, 1)
    account.polling.claim(1)
    assert (account.counts().due, account.counts().overdue) == (0, 0)


def test_the_oldest_pending_job_is_the_one_watched_longest(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "a")
    clock.advance(60)
    track(account, "b", object_id(NOW - DAY))
    clock.advance(40)
    assert account.counts().oldest_pending_ms == 100_000
    record(account, answered("a", 4))
    assert account.counts().oldest_pending_ms == 40_000
    clock.jump(-3600)
    assert account.counts().oldest_pending_ms == 0


def test_jobs_before_the_first_partition_are_counted(account: AccountLedger) -> None:
    start = NOW - DAY
    complete(account, object_id(start - 1000), object_id(start), object_id(start + HOUR))
    assert account.counts(start).before_first_partition == 1
    assert account.counts(0).before_first_partition == 0


def test_jobs_that_lie_in_a_partition_to_come_are_counted(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "now")
    clock.jump(3 * DAY / 1000)
    track(account, "ahead")
    clock.jump(-3 * DAY / 1000)
    assert account.counts(0, NOW + DAY).after_current_partition == 1
    assert account.counts(0, NOW + 4 * DAY).after_current_partition == 0
    assert account.counts().after_current_partition == 0
