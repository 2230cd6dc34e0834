"""Conformance: what tracking an id does, on every database."""

from __future__ import annotations

import json
from typing import Any

import pytest

from akool_dagster.accounts import InvalidAccountError
from akool_dagster.ledger import InvalidJobError, JobLedger, JobState, TrackReport, TrackRequest
from tests.clock import FakeClock
from tests.integration.ledger_words import (
    ACCOUNT,
    DAY,
    NOW,
    answered,
    claimed_ids,
    complete,
    job_of,
    lose,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def test_a_new_id_is_pending_due_at_once_and_as_bare_as_can_be(ledger: JobLedger) -> None:
    assert track(ledger, "a", labels={"campaign": "spring"}) == TrackReport(added=1)
    job = job_of(ledger, "a")
    assert (job.state, job.status, job.next_poll_at, job.tracked_at, job.watched_since) == (
        JobState.PENDING,
        None,
        NOW,
        NOW,
        NOW,
    )
    assert (job.labels, job.polls, job.misses, job.payload, job.video_state, job.head, job.video_head) == (
        '{"campaign":"spring"}',
        0,
        0,
        None,
        None,
        0,
        0,
    )
    assert job.poll_alone is False


def test_tracking_again_changes_nothing(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a", labels={"k": "v"})
    before, revision = job_of(ledger, "a"), ledger.revision()
    clock.advance(100)
    assert track(ledger, "a", labels={"k": "v"}) == TrackReport(known=1)
    assert (job_of(ledger, "a"), ledger.revision()) == (before, revision)


def test_labels_are_merged_and_the_newest_value_wins(ledger: JobLedger) -> None:
    track(ledger, "a", labels={"campaign": "spring", "team": "one"})
    assert track(ledger, "a", labels={"team": "two", "cost": "7"}) == TrackReport(known=1, relabelled=1)
    assert json.loads(job_of(ledger, "a").labels) == {"campaign": "spring", "cost": "7", "team": "two"}


def test_a_final_job_gains_labels_and_nothing_else(ledger: JobLedger) -> None:
    complete(ledger, "a")
    before = job_of(ledger, "a")
    assert track(ledger, "a", labels={"k": "v"}, again=True) == TrackReport(known=1, relabelled=1)
    after = job_of(ledger, "a")
    assert after.labels == '{"k":"v"}'
    assert (after.state, after.settled_at, after.payload, after.video_state, after.next_poll_at) == (
        before.state,
        before.settled_at,
        before.payload,
        before.video_state,
        before.next_poll_at,
    )


def test_an_id_given_twice_counts_once_and_keeps_the_labels_of_both(ledger: JobLedger) -> None:
    upper = object_id(NOW).upper()
    requests = [
        TrackRequest(job_id=f" {upper}\n", labels={"a": "1", "b": "1"}),
        TrackRequest(job_id=upper.lower(), labels={"b": "2"}),
    ]
    assert ledger.track(ACCOUNT, requests) == TrackReport(added=1, repeated=1)
    assert job_of(ledger, upper.lower()).labels == '{"a":"1","b":"2"}'


def test_ids_that_only_look_alike_stay_apart(ledger: JobLedger) -> None:
    assert track(ledger, "abc", "ABC", "a_c", "a-c").added == 4
    assert {job.job_id for job in ledger.iter_jobs(ACCOUNT)} == {"abc", "ABC", "a_c", "a-c"}


def test_one_bad_id_or_label_leaves_everything_untracked(ledger: JobLedger) -> None:
    good = TrackRequest(job_id="good")
    for bad in (
        TrackRequest(job_id="two words"),
        TrackRequest(job_id="a", labels={" ": "v"}),
        TrackRequest(job_id="a", labels={"k": "half a \ud83d pair"}),
    ):
        with pytest.raises(InvalidJobError):
            ledger.track(ACCOUNT, [good, bad])
    assert list(ledger.iter_jobs(ACCOUNT)) == []


def test_tracking_nothing_is_nothing(ledger: JobLedger) -> None:
    assert ledger.track(ACCOUNT, []) == TrackReport()


def test_accounts_do_not_see_or_touch_each_other(ledger: JobLedger, clock: FakeClock) -> None:
    assert ledger.track("other", [TrackRequest(job_id="a")]).added == 1
    (others,) = ledger.iter_jobs("other")
    clock.advance(1)
    track(ledger, "a", labels={"k": "v"})
    assert claimed_ids(ledger) == ["a"]
    ledger.release(ACCOUNT, ["a"], until=NOW + DAY)
    record(ledger, answered("a", 3))
    ledger.keep_video_url(ACCOUNT, "a", "https://cdn.example/2", NOW)
    ledger.store_video(ACCOUNT, "a", {"path": "a.mp4"})
    assert list(ledger.iter_jobs("other")) == [others]
    assert (ledger.heads("other"), ledger.due_video_hours("other")) == ([], [])
    assert ledger.counts("other").states == {JobState.PENDING: 1}
    assert list(ledger.snapshot("other", 0, NOW + DAY).jobs) == [others]
    assert [claimed.job_id for claimed in ledger.claim("other", 9)] == ["a"]


def test_the_partition_of_an_object_id_is_its_own_second(ledger: JobLedger) -> None:
    made = NOW - 3 * DAY
    ids = [object_id(made), object_id(NOW), object_id(NOW + 1000), "not-an-object-id"]
    track(ledger, *ids)
    assert [job_of(ledger, job_id).partition_at for job_id in ids] == [made, NOW, NOW, NOW]


def test_the_partition_stays_where_it_was_fixed(ledger: JobLedger, clock: FakeClock) -> None:
    from_the_future = object_id(NOW + 60_000)
    track(ledger, from_the_future)
    clock.advance(3600)
    track(ledger, from_the_future, labels={"k": "v"}, again=True)
    assert job_of(ledger, from_the_future).partition_at == NOW


@pytest.mark.parametrize("state", [JobState.MISSING, JobState.ABANDONED])
def test_only_tracking_again_reopens_a_job(ledger: JobLedger, clock: FakeClock, state: JobState) -> None:
    track(ledger, "a")
    record(ledger, answered("a", 3, url=False))
    if state == JobState.MISSING:
        lose(ledger, clock, "a", code=1008)
    else:
        clock.advance(7 * DAY / 1000)
        record(ledger, answered("a", 2))
        record(ledger, answered("a", 2))
    assert job_of(ledger, "a").state == state

    assert track(ledger, "a") == TrackReport(known=1)
    assert claimed_ids(ledger) == []
    clock.advance(5)
    assert track(ledger, "a", again=True) == TrackReport(known=1, reopened=1)
    job = job_of(ledger, "a")
    assert (job.state, job.watched_since, job.next_poll_at) == (JobState.PENDING, clock.now_ms(), clock.now_ms())
    assert (job.misses, job.first_missed_at, job.urlless_polls, job.last_code, job.last_error) == (
        0,
        None,
        0,
        None,
        None,
    )
    assert job.tracked_at == NOW
    assert claimed_ids(ledger) == ["a"]


def test_more_ids_than_one_query_takes_are_all_tracked_and_listed(ledger: JobLedger) -> None:
    ids = [object_id(NOW, number) for number in range(1203)]
    assert track(ledger, *ids) == TrackReport(added=1203)
    assert track(ledger, *ids, labels={"k": "v"}) == TrackReport(known=1203, relabelled=1203)
    assert [job.job_id for job in ledger.iter_jobs(ACCOUNT)] == ids
    record(ledger, *(answered(job_id, 4) for job_id in ids[:600]))
    assert [job.job_id for job in ledger.iter_jobs(ACCOUNT, JobState.FAILED)] == ids[:600]
    assert [job.job_id for job in ledger.iter_jobs(ACCOUNT, JobState.PENDING)] == ids[600:]


@pytest.mark.parametrize(
    "account", ["", "../", "a/b", "my-team", " akool", "akool\n", "a" * 65, "ä", "_", "7up", "class", 5, None]
)
def test_an_account_that_no_deployment_can_have_is_refused_before_anything_is_written(
    ledger: JobLedger, account: Any
) -> None:
    with pytest.raises(InvalidAccountError, match="1 to 64 letters, digits or '_'"):
        ledger.track(account, [TrackRequest(job_id="a")])
    assert ledger.inspection(ACCOUNT).accounts() == []


@pytest.mark.parametrize("account", ["akool", "a" * 64, "Team_7", "a"])
def test_an_account_is_whatever_a_prefix_can_be(ledger: JobLedger, account: str) -> None:
    assert ledger.track(account, [TrackRequest(job_id="a")]).added == 1
    assert ledger.inspection(ACCOUNT).accounts() == [account]
