"""Conformance: the account in numbers. (The properties compare every number with a count by hand.)"""

from __future__ import annotations

from akool_dagster.ledger import AccountLedger, Counts, Unreadable
from tests.clock import FakeClock
from tests.integration.ledger.helpers import answered, complete, fail, go_missing, record, track

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


def test_every_kind_of_job_is_counted_under_its_name(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "gone")
    go_missing(account, clock, "gone")
    complete(account, "stored", "lost", "waiting")
    account.videos.store("stored", {})
    fail(account, "lost")
    track(account, "failed", "queueing", "urlless", "odd", "new")
    record(account, answered("failed", 4), answered("queueing", 1), answered("urlless", 3, url=False))
    record(account, answered("odd", 9), Unreadable(job_id="new", error="odd"))
    counts = account.counts()
    assert counts.states == {"missing": 1, "completed": 3, "failed": 1, "pending": 4}
    assert counts.pending_statuses == {"queueing": 1, "completed": 1, "unknown": 1, "unseen": 1}
    assert (counts.videos, counts.pending) == ({"stored": 1, "lost": 1, "pending": 1}, 4)


def test_a_job_is_overdue_ten_minutes_after_it_was_due(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "a")
    for seconds, overdue in ((599.999, 0), (0.001, 1)):
        clock.advance(seconds)
        assert (account.counts().due, account.counts().overdue) == (1, overdue)
    assert account.counts().oldest_pending_ms == 600_000
    clock.jump(-3600)
    assert (account.counts().due, account.counts().oldest_pending_ms) == (0, 0)
