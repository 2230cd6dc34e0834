"""Conformance: which ids a poll pass gets, and how what Akool says of them moves their jobs."""

from __future__ import annotations

import json

from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger import (
    AccountLedger,
    JobLedger,
    JobState,
    Missed,
    Polling,
    RecordReport,
    TrackReport,
    Unanswered,
    Unreadable,
)
from akool_dagster.ledger.rows import CHUNK
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    ACCOUNT,
    DAY,
    MINUTE,
    NOW,
    answered,
    claimed_ids,
    complete,
    go_missing,
    job_of,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]

BY_AGE = Polling(next_poll_delay_ms=lambda watched_ms: watched_ms, ids_per_request=50)


def test_a_claim_keeps_the_id_for_two_minutes(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "a")
    assert claimed_ids(account) == ["a"]
    clock.advance(119.999)
    assert claimed_ids(account) == []
    clock.advance(0.001)
    assert claimed_ids(account) == ["a"]


def test_a_released_id_is_due_at_its_time_and_ended_ones_stay_ended(
    ledger: JobLedger, account: AccountLedger, clock: FakeClock
) -> None:
    track(account, "a", "b")
    claimed_ids(account)
    complete(account, "ended")
    ended, version = job_of(account, "ended"), ledger.version()
    account.polling.release({"b": NOW + MINUTE, "a": NOW, "no such id": NOW, "ended": NOW + 5})
    assert claimed_ids(account) == ["a"]
    clock.advance(60)
    assert claimed_ids(account) == ["b"]
    assert (job_of(account, "ended"), ledger.version(), job_of(account, "a").polls) == (ended, version, 0)


def test_every_call_takes_more_ids_than_one_query_does(account: AccountLedger) -> None:
    ids = [f"{number:04}" for number in range(CHUNK + 1)]
    many = len(ids)
    assert track(account, *ids) == TrackReport(added=many)
    assert track(account, *ids, labels={"k": "v"}) == TrackReport(known=many, relabelled=many)
    assert claimed_ids(account, 5000) == ids
    assert claimed_ids(account, 5000) == []
    account.polling.release(dict.fromkeys(ids, NOW))
    account.polling.set_call_size(ids, 7)
    assert {claimed.call_size for claimed in account.polling.claim(5000)} == {7}
    assert record(account, *(answered(job_id, 4) for job_id in ids)) == RecordReport(failed=many, changed=many)
    assert [job.job_id for job in account.jobs(JobState.FAILED)] == ids
    assert list(account.jobs(JobState.PENDING)) == []
    assert account.pruning.prune(ids, END_OF_TIME) == many
    account.pruning.forget(ids)
    assert account.landings.forgotten() == set(ids)


def test_an_account_remembers_how_long_to_wait_and_how_long_a_call_may_be(
    ledger: JobLedger, account: AccountLedger
) -> None:
    other = ledger.account("other").polling
    assert (account.polling.not_before(), account.polling.call_limit()) == (0, None)
    other.hold(NOW + 9 * MINUTE)
    for until, limit in ((NOW + MINUTE, 20), (NOW + 2 * MINUTE, None)):
        account.polling.hold(until)
        account.polling.set_call_limit(limit)
        assert (account.polling.not_before(), account.polling.call_limit()) == (until, limit)
    assert (other.not_before(), other.call_limit()) == (NOW + 9 * MINUTE, None)


def test_a_call_size_doubles_with_each_answer_until_a_call_is_whole_again(account: AccountLedger) -> None:
    track(account, "a", "ended", "unanswered", "refused")
    record(account, answered("ended", 4))
    account.polling.set_call_size(["unanswered", "ended", "a", "refused", "no such id"], 6)
    seen = (answered("a", 1), Missed(job_id="a"), Unreadable(job_id="a", error="odd"), answered("a", 1))
    sizes = []
    for one in seen:
        record(account, one, Unanswered(job_id="unanswered", error="HTTP 500"), Missed(job_id="refused", code=1008))
        sizes.append(job_of(account, "a").call_size)
    assert sizes == [12, 24, 48, None]
    assert [job_of(account, job_id).call_size for job_id in ("unanswered", "refused", "ended")] == [6, 6, None]


def test_any_number_may_be_a_status(account: AccountLedger) -> None:
    track(account, "a")
    for odd in (0, 2**63 - 1, -(2**63), None):
        record(account, answered("a", odd))
        assert (job_of(account, "a").state, job_of(account, "a").status) == ("pending", odd)


def test_one_call_may_move_every_job_differently(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "done", "failed", "queueing", "odd", "unanswered")
    record(account, answered("odd", 2), answered("unanswered", 2))
    clock.advance(30)
    payload = json.dumps({"video_url": "https://cdn.example/ü.mp4", "n": 2**70}, ensure_ascii=False)
    report = record(
        account,
        answered("unknown", 3),
        Unanswered(job_id="unanswered", error="HTTP 502"),
        answered("queueing", 1),
        Unreadable(job_id="odd", error="status is not a number"),
        answered("failed", 4, reason="no face"),
        answered("done", 3, payload=payload),
    )
    assert report == RecordReport(completed=1, failed=1, changed=3)
    done, failed = job_of(account, "done"), job_of(account, "failed")
    assert (done.state, done.status, done.settled_at, done.payload) == ("completed", 3, NOW + 30_000, payload)
    assert (done.video_state, done.video_next_at, done.video_expires_at) == ("pending", NOW + 30_000, NOW + 7 * DAY)
    assert (done.video_attempts, done.video_error, done.last_error) == (0, None, None)
    assert (failed.state, failed.status, failed.settled_at, failed.failure_reason) == (
        "failed",
        4,
        NOW + 30_000,
        "no face",
    )
    assert (failed.video_state, failed.video_next_at) == (None, None)
    for job_id, error, polled_at in (
        ("odd", "status is not a number", NOW + 30_000),
        ("unanswered", "HTTP 502", NOW),
    ):
        job = job_of(account, job_id)
        assert (job.state, job.status, job.polls, job.last_error) == ("pending", 2, 2, error)
        assert (job.payload, job.last_polled_at) == (answered(job_id, 2).payload, polled_at)


def test_only_pending_jobs_move(ledger: JobLedger, account: AccountLedger, clock: FakeClock) -> None:
    track(account, "done", "failed", "missing", "forgotten")
    record(account, answered("done", 3), answered("failed", 4))
    go_missing(account, clock, "missing")
    account.pruning.forget(["forgotten"])
    before, version = list(account.jobs()), ledger.version()
    clock.advance(8 * DAY / 1000)
    for job_id in ("done", "failed", "missing", "forgotten", "never tracked"):
        for seen in (answered(job_id, 1), answered(job_id, 3), answered(job_id, 4), Missed(job_id=job_id, code=1009)):
            assert record(account, seen) == RecordReport()
    assert (list(account.jobs()), ledger.version()) == (before, version)
    assert claimed_ids(account) == []


def test_the_schedule_is_asked_with_how_long_the_job_has_been_watched(account: AccountLedger, clock: FakeClock) -> None:
    old = object_id(NOW - DAY)
    track(account, old)
    clock.advance(100)
    account.polling.record([answered(old, 1)], BY_AGE)
    assert job_of(account, old).next_poll_at == NOW + 200_000
    clock.jump(-3600)
    account.polling.record([answered(old, 1)], BY_AGE)
    assert job_of(account, old).next_poll_at == clock.now_ms()
    assert account.counts().oldest_pending_ms == 0


def test_a_schedule_made_under_a_clock_that_was_ahead_is_set_to_now(account: AccountLedger, clock: FakeClock) -> None:
    track(account, "ours")
    clock.advance(DAY / 1000)
    record(account, answered("ours", 1))
    ours = job_of(account, "ours")
    clock.jump(300 * DAY / 1000)
    track(account, "pending")
    complete(account, "done")
    clock.jump(-300 * DAY / 1000)
    account.polling.clamp_future_schedule()
    assert claimed_ids(account) == ["pending"]
    assert [hour.due for hour in account.videos.due_hours()] == [1]
    assert job_of(account, "ours") == ours
    clock.advance(7 * DAY / 1000 - 1)
    track(account, "done", again=True)
    assert job_of(account, "pending").watched_since == NOW + DAY
    clock.advance(1)
    assert [record(account, answered("pending", 1)).abandoned for _ in range(2)] == [0, 1]


def test_what_was_recorded_survives_reopening_the_ledger(
    ledger: JobLedger, account: AccountLedger, ledger_url: str
) -> None:
    complete(account, "a")
    for open_ledger in (JobLedger.open, JobLedger.create):
        with open_ledger(ledger_url) as reopened:
            assert (reopened.ledger_id, reopened.version()) == (ledger.ledger_id, ledger.version())
            assert job_of(reopened.account(ACCOUNT), "a") == job_of(account, "a")
