"""Conformance: what two transactions that overlap do to each other. One is held open while the other goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from akool_dagster.ledger import JobLedger, LedgerUnavailableError, RecordReport, TrackReport
from akool_dagster.ledger.records import KnownLanding, LeaseFacts
from akool_dagster.ledger.rows import locked_jobs
from tests.clock import FakeClock
from tests.integration.ledger_sides import (
    LONGEST_SECONDS,
    Side,
    held_before,
    uncommitted,
    wait_until_waiting,
)
from tests.integration.ledger_words import (
    ACCOUNT,
    HOUR,
    NOW,
    answered,
    claimed_ids,
    complete,
    job_of,
    nth,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]

LEASE = ("tables", "2025-10-09")
LEASE_MS = 60_000


def test_a_revision_cannot_be_seen_before_the_one_before_it(one: Side, impatient: Side) -> None:
    track(one.ledger, "a", "b")
    with uncommitted(one, lambda: record(one.ledger, answered("a", 4))):
        with pytest.raises(LedgerUnavailableError):
            record(impatient.ledger, answered("b", 4))
        assert (impatient.ledger.revision(), job_of(impatient.ledger, "b").state) == (nth(1), "pending")
    assert (impatient.ledger.revision(), job_of(impatient.ledger, "a").revision) == (nth(2), nth(2))
    record(impatient.ledger, answered("b", 4))
    assert job_of(one.ledger, "b").revision == nth(3)


def test_revisions_are_taken_in_the_order_in_which_they_are_committed(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    track(one.ledger, "a", "b")
    with uncommitted(one, lambda: record(one.ledger, answered("a", 4))):
        second = threads.submit(record, other.ledger, answered("b", 4))
        wait_until_waiting(one)
        assert not second.done()
        assert one.ledger.revision() == nth(1)
    assert second.result(LONGEST_SECONDS).failed == 1
    assert (job_of(one.ledger, "a").revision, job_of(one.ledger, "b").revision) == (nth(2), nth(3))


def test_a_snapshot_beside_an_uncommitted_answer_shows_rows_and_revision_of_before(one: Side, other: Side) -> None:
    track(one.ledger, "a", "b")
    with uncommitted(one, lambda: record(one.ledger, answered("a", 4), answered("b", 4))):
        before = other.ledger.snapshot(ACCOUNT, NOW - HOUR, NOW + HOUR)
        heads = other.ledger.heads(ACCOUNT)
    after = other.ledger.snapshot(ACCOUNT, NOW - HOUR, NOW + HOUR)
    assert (before.revision, [(job.state, job.revision) for job in before.jobs]) == (nth(1), [("pending", nth(1))] * 2)
    assert heads == []
    assert (after.revision, [(job.state, job.revision) for job in after.jobs]) == (nth(2), [("failed", nth(2))] * 2)


def test_what_is_committed_while_a_snapshot_is_open_stays_out_of_all_its_queries(one: Side, other: Side) -> None:
    track(one.ledger, "a")
    with held_before(other, "SELECT min(", lambda: other.ledger.counts(ACCOUNT)) as counting:
        complete(one.ledger, "a")
        track(one.ledger, "b", "c")
    counts = counting.result()
    assert (counts.states, counts.due, counts.oldest_pending_ms) == ({"pending": 1}, 1, 0)


def test_overlapping_claims_take_different_ids(one: Side, other: Side, threads: ThreadPoolExecutor) -> None:
    track(one.ledger, "a", "b", "c", "d")
    with uncommitted(one, lambda: claimed_ids(one.ledger, 2)) as first:
        second = threads.submit(claimed_ids, other.ledger, 2)
        if not one.is_sqlite:  # which has one writer at a time
            assert second.result(LONGEST_SECONDS) == ["c", "d"]  # it does not wait for the first
    assert (first.result(), second.result(LONGEST_SECONDS)) == (["a", "b"], ["c", "d"])


def test_the_same_ids_tracked_at_once_are_added_once_with_the_labels_of_both(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    with uncommitted(one, lambda: track(one.ledger, "a", "b", labels={"one": "1"})) as first:
        second = threads.submit(track, other.ledger, "b", "c", labels={"other": "2"})
        wait_until_waiting(one)
    assert first.result() == TrackReport(added=2)
    assert second.result(LONGEST_SECONDS) == TrackReport(added=1, known=1, relabelled=1)
    assert {job.job_id: json.loads(job.labels) for job in one.ledger.iter_jobs(ACCOUNT)} == {
        "a": {"one": "1"},
        "b": {"one": "1", "other": "2"},
        "c": {"other": "2"},
    }


def test_an_answer_that_waited_for_another_is_compared_with_what_that_one_left(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    track(one.ledger, "a")
    with uncommitted(one, lambda: record(one.ledger, answered("a", 3))):
        second = threads.submit(record, other.ledger, answered("a", 4))
        wait_until_waiting(one)
    assert second.result(LONGEST_SECONDS) == RecordReport()
    assert (job_of(one.ledger, "a").state, one.ledger.revision()) == ("completed", nth(2))


def test_a_lease_wanted_by_two_at_once_goes_to_one(one: Side, other: Side, threads: ThreadPoolExecutor) -> None:
    with uncommitted(one, lambda: one.ledger.leases(ACCOUNT).take(*LEASE, "one")) as first:
        second = threads.submit(other.ledger.leases(ACCOUNT).take, *LEASE, "other")
        wait_until_waiting(one)
    assert first.result() is None
    assert second.result(LONGEST_SECONDS) == LeaseFacts(owner="one", expires_at=NOW + LEASE_MS)


def test_a_lease_that_passes_on_at_this_moment_cannot_be_renewed(
    one: Side, other: Side, threads: ThreadPoolExecutor, clock: FakeClock
) -> None:
    one.ledger.leases(ACCOUNT).take(*LEASE, "one")
    clock.advance(60)
    with uncommitted(other, lambda: other.ledger.leases(ACCOUNT).take(*LEASE, "other")):
        renewed = threads.submit(one.ledger.leases(ACCOUNT).renew, *LEASE, "one")
        wait_until_waiting(one)
    assert renewed.result(LONGEST_SECONDS) is False
    assert one.ledger.leases(ACCOUNT).facts("tables")["2025-10-09"].owner == "other"


def test_a_lease_that_is_renewed_at_this_moment_cannot_be_taken(
    one: Side, other: Side, threads: ThreadPoolExecutor, clock: FakeClock
) -> None:
    one.ledger.leases(ACCOUNT).take(*LEASE, "one")
    clock.advance(60)
    with uncommitted(one, lambda: one.ledger.leases(ACCOUNT).renew(*LEASE, "one")):
        taken = threads.submit(other.ledger.leases(ACCOUNT).take, *LEASE, "other")
        wait_until_waiting(one)
    assert taken.result(LONGEST_SECONDS) == LeaseFacts(owner="one", expires_at=NOW + 2 * LEASE_MS)


WRITES: dict[str, Callable[[JobLedger], object]] = {
    "record": lambda ledger: record(ledger, answered("a", 3), answered("b", 3)),
    "track": lambda ledger: track(ledger, "a", "new", labels={"k": "v"}),
    "store a video": lambda ledger: ledger.store_video(ACCOUNT, "a", {"path": "a.mp4"}),
    "release": lambda ledger: ledger.release(ACCOUNT, ["b", "a"], until=NOW),
    "land anew": lambda ledger: ledger.landings(ACCOUNT).land_anew(0, 2**53, above=10),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_waiting_for_a_job_that_another_has_locked_is_bounded_and_leaves_nothing_half_written(
    one: Side, impatient: Side, write: Callable[[JobLedger], object]
) -> None:
    track(one.ledger, "a", "b")
    before = list(one.ledger.iter_jobs(ACCOUNT))
    with one.database.write() as connection:
        assert len(locked_jobs(connection, ACCOUNT, ["a"])) == 1
        with pytest.raises(LedgerUnavailableError, match=r"cannot be used now: .*(locked|lock timeout)"):
            write(impatient.ledger)
    assert (list(one.ledger.iter_jobs(ACCOUNT)), one.ledger.revision()) == (before, nth(1))
    write(impatient.ledger)


def test_a_pool_without_a_free_connection_is_waited_for_no_longer_than_for_a_lock(impatient: Side) -> None:
    with ExitStack() as stack, pytest.raises(LedgerUnavailableError, match="every connection in use"):
        for _ in range(100):
            stack.enter_context(impatient.database.read())
    assert impatient.ledger.revision() == 0


def test_two_passes_that_know_of_the_same_landings_do_not_stop_each_other(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    first, last = ("tables", "2025-10-08"), ("tables", "2025-10-09")
    known = KnownLanding(revision=1, checked_at=NOW)
    one.ledger.landings(ACCOUNT).remember({first: known, last: known})
    with uncommitted(one, lambda: one.ledger.landings(ACCOUNT).remember({first: known})):
        # Both wait for the first of the two, whichever they name first: neither holds what the other needs next.
        forwards = threads.submit(other.ledger.landings(ACCOUNT).remember, {first: known, last: known})
        wait_until_waiting(one)
        backwards = threads.submit(other.ledger.landings(ACCOUNT).remember, {last: known, first: known})
        wait_until_waiting(one, 2)
    assert (forwards.exception(LONGEST_SECONDS), backwards.exception(LONGEST_SECONDS)) == (None, None)


def test_a_stretch_that_lands_anew_and_an_answer_do_not_stop_each_other(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    job_id = object_id(NOW - HOUR)
    track(one.ledger, job_id)
    holds_the_counter = lambda: one.ledger.landings(ACCOUNT).land_anew(0, 1, above=5)  # noqa: E731
    with uncommitted(one, holds_the_counter):
        stamping = threads.submit(other.ledger.landings(ACCOUNT).land_anew, NOW - HOUR, NOW, above=50)
        wait_until_waiting(one)
        recording = threads.submit(record, other.ledger, answered(job_id, 4))
        wait_until_waiting(one, 2)
    assert (stamping.exception(LONGEST_SECONDS), recording.exception(LONGEST_SECONDS)) == (None, None)
    assert job_of(one.ledger, job_id).state == "failed"
    assert job_of(one.ledger, job_id).head == one.ledger.revision()


@pytest.mark.parametrize("seen", [["a", "b"], ["b", "a"]], ids=["forwards", "backwards"])
def test_answers_about_the_same_ids_in_any_order_do_not_stop_each_other(
    one: Side, other: Side, threads: ThreadPoolExecutor, seen: list[str]
) -> None:
    track(one.ledger, "b")
    track(one.ledger, "a")
    with uncommitted(one, lambda: record(one.ledger, answered("a", 1))):
        recording = threads.submit(record, other.ledger, *(answered(job_id, 4) for job_id in seen))
        wait_until_waiting(one)
        releasing = threads.submit(other.ledger.release, ACCOUNT, reversed(seen), until=NOW)
        wait_until_waiting(one, 2)
    assert (recording.exception(LONGEST_SECONDS), releasing.exception(LONGEST_SECONDS)) == (None, None)
    assert [job.state for job in one.ledger.iter_jobs(ACCOUNT)] == ["failed", "failed"]


def test_mending_the_schedule_does_not_wait_for_what_is_being_recorded(
    one: Side, impatient: Side, clock: FakeClock
) -> None:
    clock.jump(86_400)
    track(one.ledger, "a", "b")
    clock.jump(-86_400)
    with uncommitted(one, lambda: record(one.ledger, answered("a", 1))):
        if one.is_sqlite:
            with pytest.raises(LedgerUnavailableError):
                impatient.ledger.mend_schedule(ACCOUNT)
        else:
            impatient.ledger.mend_schedule(ACCOUNT)
            assert claimed_ids(impatient.ledger) == ["b"]
    impatient.ledger.mend_schedule(ACCOUNT)
    assert "a" not in claimed_ids(impatient.ledger)  # its answer gave it a moment
