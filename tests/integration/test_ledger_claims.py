"""Conformance: which ids a poll pass gets, in which order, and for how long they are its own."""

from __future__ import annotations

from akool_dagster.ledger import ClaimedJob, JobLedger, Missed, TrackRequest
from tests.clock import FakeClock
from tests.integration.ledger_words import (
    ACCOUNT,
    MINUTE,
    NOW,
    answered,
    claimed_ids,
    complete,
    job_of,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def test_the_longest_due_is_claimed_first_and_ties_go_by_id(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "c", "a")
    clock.advance(1)
    track(ledger, "b")
    ledger.release(ACCOUNT, ["c"], until=NOW - 1)
    assert claimed_ids(ledger) == ["c", "a", "b"]


def test_what_is_not_due_yet_is_not_claimed(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a")
    record(ledger, answered("a", 1))
    clock.advance(4.999)
    assert claimed_ids(ledger) == []
    clock.advance(0.001)
    assert claimed_ids(ledger) == ["a"]


def test_a_claim_says_when_the_id_was_due_and_how_to_poll_it(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a")
    record(ledger, Missed(job_id="a", code=1008, alone=True))
    clock.advance(60)
    assert ledger.claim(ACCOUNT, 10) == [ClaimedJob(job_id="a", poll_alone=True)]


def test_no_more_than_the_limit_is_claimed_and_the_rest_comes_next(ledger: JobLedger) -> None:
    track(ledger, "a", "b", "c")
    assert [claimed_ids(ledger, 2), claimed_ids(ledger, 2), claimed_ids(ledger, 2)] == [["a", "b"], ["c"], []]


def test_a_claim_keeps_the_id_for_two_minutes(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a")
    assert claimed_ids(ledger) == ["a"]
    clock.advance(119.999)
    assert claimed_ids(ledger) == []
    clock.advance(0.001)
    assert claimed_ids(ledger) == ["a"]


def test_claimed_ids_do_not_stand_in_the_way_of_others(ledger: JobLedger) -> None:
    track(ledger, "a", "b")
    claimed_ids(ledger)
    track(ledger, "c")
    assert claimed_ids(ledger, 1) == ["c"]


def test_a_released_id_is_due_at_the_given_moment(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a", "b")
    claimed_ids(ledger)
    ledger.release(ACCOUNT, ["a", "no such id"], until=NOW + MINUTE)
    clock.advance(59.999)
    assert claimed_ids(ledger) == []
    clock.advance(0.001)
    assert claimed_ids(ledger) == ["a"]


def test_releasing_a_job_that_ended_meanwhile_leaves_it_ended(ledger: JobLedger) -> None:
    complete(ledger, "a")
    before = job_of(ledger, "a")
    ledger.release(ACCOUNT, ["a"], until=NOW)
    assert job_of(ledger, "a") == before
    assert claimed_ids(ledger) == []


def test_more_ids_than_one_query_takes_are_claimed_and_released(ledger: JobLedger) -> None:
    ids = [f"{number:04}" for number in range(1100)]
    track(ledger, *ids)
    assert claimed_ids(ledger, 5000) == ids
    assert claimed_ids(ledger, 5000) == []
    ledger.release(ACCOUNT, ids, until=NOW)
    assert claimed_ids(ledger, 5000) == ids


def test_claiming_and_releasing_change_nothing_that_a_table_shows(ledger: JobLedger) -> None:
    track(ledger, "a")
    revision = ledger.revision()
    claimed_ids(ledger)
    ledger.release(ACCOUNT, ["a"], until=NOW)
    assert (ledger.revision(), job_of(ledger, "a").polls) == (revision, 0)


def test_an_account_is_held_until_the_moment_last_given(ledger: JobLedger) -> None:
    assert ledger.poll_not_before(ACCOUNT) == 0
    ledger.hold_polling(ACCOUNT, NOW + MINUTE)
    ledger.hold_polling("other", NOW + 9 * MINUTE)
    assert ledger.poll_not_before(ACCOUNT) == NOW + MINUTE
    ledger.hold_polling(ACCOUNT, NOW + 2 * MINUTE)
    assert ledger.poll_not_before(ACCOUNT) == NOW + 2 * MINUTE


def test_a_job_of_another_account_is_never_claimed(ledger: JobLedger) -> None:
    ledger.track("other", [TrackRequest(job_id="a")])
    assert claimed_ids(ledger) == []
