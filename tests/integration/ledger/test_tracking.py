"""Conformance: what tracking an id does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from akool_dagster.base.accounts import InvalidAccountError
from akool_dagster.ledger import (
    AccountLedger,
    InvalidJobError,
    JobLedger,
    JobState,
    TrackReport,
    TrackRequest,
    VideoState,
)
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    DAY,
    NOW,
    abandon,
    answered,
    claimed_ids,
    complete,
    fail,
    go_missing,
    job_of,
    object_id,
    record,
    rows_of,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def test_a_new_id_is_pending_and_due_at_once(account: AccountLedger) -> None:
    assert track(account, "a", labels={"campaign": "spring"}) == TrackReport(added=1)
    job = job_of(account, "a")
    assert (job.state, job.status, job.payload, job.video_state, job.call_size) == ("pending", None, None, None, None)
    assert (job.next_poll_at, job.tracked_at, job.watched_since, job.partition_at) == (NOW, NOW, NOW, NOW)
    assert (job.labels, job.polls, job.misses) == ('{"campaign":"spring"}', 0, 0)


def test_tracking_a_known_id_changes_nothing(ledger: JobLedger, account: AccountLedger, clock: FakeClock) -> None:
    track(account, "a", labels={"k": "v"})
    before, version = job_of(account, "a"), ledger.version()
    clock.advance(100)
    assert track(account, "a", labels={"k": "v"}) == TrackReport(known=1)
    assert (job_of(account, "a"), ledger.version()) == (before, version)


def test_labels_are_merged_and_the_newest_value_wins(account: AccountLedger) -> None:
    odd = {"": "never", "Straße": 'é 漢 🎬 "\\ \n', "0": "null"}
    del odd[""]
    track(account, "a", labels={"campaign": "spring", "team": "one"} | odd)
    assert track(account, "a", labels={"team": "two", "cost": "7"}) == TrackReport(known=1, relabelled=1)
    assert json.loads(job_of(account, "a").labels) == {"campaign": "spring", "cost": "7", "team": "two"} | odd


def test_a_final_job_gains_labels_and_nothing_else(account: AccountLedger) -> None:
    complete(account, "a")
    before = job_of(account, "a")
    assert track(account, "a", labels={"k": "v"}, again=True) == TrackReport(known=1, relabelled=1)
    after = job_of(account, "a")
    assert after.labels == '{"k":"v"}'
    assert (after.state, after.settled_at, after.payload) == (before.state, before.settled_at, before.payload)
    assert (after.video_state, after.next_poll_at) == (before.video_state, before.next_poll_at)


def test_an_id_given_twice_counts_once_and_keeps_the_labels_of_both(account: AccountLedger) -> None:
    upper = object_id(NOW).upper()
    requests = [
        TrackRequest(job_id=f" {upper}\n", labels={"a": "1", "b": "1"}),
        TrackRequest(job_id=upper.lower(), labels={"b": "2"}),
    ]
    assert account.track(requests) == TrackReport(added=1, repeated=1)
    assert job_of(account, upper.lower()).labels == '{"a":"1","b":"2"}'


def test_ids_that_only_look_alike_stay_apart_and_are_listed_by_bytes(account: AccountLedger) -> None:
    ids = ["-", "0", "ABC", "Z", "_", "a", "a-c", "a_c", "abc"]
    assert track(account, *reversed(ids)).added == len(ids)
    assert [job.job_id for job in account.jobs()] == ids


def test_one_bad_id_or_label_leaves_everything_untracked(account: AccountLedger) -> None:
    good = TrackRequest(job_id="good")
    for bad in (TrackRequest(job_id="two words"), TrackRequest(job_id="a", labels={"k": "half a \ud83d pair"})):
        with pytest.raises(InvalidJobError):
            account.track([good, bad])
    assert list(account.jobs()) == []
    assert account.track([]) == TrackReport()


def test_accounts_do_not_see_or_touch_each_other(ledger: JobLedger, account: AccountLedger, clock: FakeClock) -> None:
    other = ledger.account("other")
    track(other, "a")
    (before,) = other.jobs()
    clock.advance(1)
    track(account, "a", labels={"k": "v"})
    assert claimed_ids(account) == ["a"]
    account.polling.release({"a": NOW + DAY})
    account.polling.set_call_size(["a"], 2)
    record(account, answered("a", 3))
    account.videos.keep_url("a", "https://cdn.example/2", NOW)
    account.videos.store("a", {"path": "a.mp4"})
    account.pruning.prune(["a"])
    account.pruning.forget(["a"])
    assert list(other.jobs()) == [before]
    assert (other.landings.dirty(DAY, ["results"], videos=True), other.videos.due_hours()) == ([], [])
    assert other.landings.forgotten() == frozenset()
    assert other.counts().states == {"pending": 1}
    assert rows_of(other) == [("a",)]
    assert claimed_ids(other) == ["a"]
    assert ledger.accounts() == ["akool", "other"]


def test_the_partition_is_fixed_by_the_ids_own_second_or_by_now(account: AccountLedger, clock: FakeClock) -> None:
    ids = [object_id(NOW - 3 * DAY), object_id(NOW), object_id(NOW + 60_000), "not-an-object-id"]
    track(account, *ids)
    clock.advance(3600)
    track(account, *ids, labels={"k": "v"}, again=True)
    assert [job_of(account, job_id).partition_at for job_id in ids] == [NOW - 3 * DAY, NOW, NOW, NOW]


@pytest.mark.parametrize("state", [JobState.MISSING, JobState.ABANDONED])
def test_only_tracking_again_reopens_a_job(account: AccountLedger, clock: FakeClock, state: JobState) -> None:
    track(account, "a")
    record(account, answered("a", 3, url=False))
    if state == JobState.MISSING:
        go_missing(account, clock, "a", code=1008)
    else:
        record(account, answered("a", 1))
        abandon(account, clock, "a")
    assert job_of(account, "a").state == state
    assert track(account, "a") == TrackReport(known=1)
    assert claimed_ids(account) == []
    clock.advance(5)
    assert track(account, "a", again=True) == TrackReport(known=1, reopened=1)
    job, now = job_of(account, "a"), clock.now_ms()
    assert (job.state, job.watched_since, job.next_poll_at, job.tracked_at) == ("pending", now, now, NOW)
    assert (job.misses, job.first_missed_at, job.urlless_polls, job.last_code) == (0, None, 0, None)
    assert claimed_ids(account) == ["a"]


@pytest.mark.parametrize("state", [VideoState.LOST, VideoState.UNVERIFIED])
def test_only_tracking_again_lets_a_video_be_tried_once_more(
    account: AccountLedger, clock: FakeClock, state: VideoState
) -> None:
    complete(account, "a", "stored")
    account.videos.store("stored", {"path": "stored.mp4"})
    fail(account, "a", state, refused=True)
    stored, given_up = job_of(account, "stored"), job_of(account, "a")
    assert track(account, "a") == TrackReport(known=1)
    assert job_of(account, "a") == given_up
    clock.advance(5)
    assert track(account, "a", "stored", again=True) == TrackReport(known=2, reopened=1)
    job = job_of(account, "a")
    assert (job.video_state, job.video_next_at) == (VideoState.PENDING, clock.now_ms())
    assert (job.video_attempts, job.video_refusals, job.settled_at) == (1, 0, given_up.settled_at)
    assert job_of(account, "stored") == stored
    assert [video.job_id for video in account.videos.due(None, NOW + 1)] == ["a"]


def test_more_ids_than_one_query_takes_are_all_tracked_and_listed(account: AccountLedger) -> None:
    ids = [object_id(NOW, number) for number in range(1203)]
    assert track(account, *ids) == TrackReport(added=1203)
    assert track(account, *ids, labels={"k": "v"}) == TrackReport(known=1203, relabelled=1203)
    assert [job.job_id for job in account.jobs()] == ids
    record(account, *(answered(job_id, 4) for job_id in ids[:600]))
    assert [job.job_id for job in account.jobs(JobState.FAILED)] == ids[:600]
    assert [job.job_id for job in account.jobs(JobState.PENDING)] == ids[600:]


@pytest.mark.parametrize(
    "name", ["", "../", "a/b", "my-team", " akool", "akool\n", "a" * 65, "ä", "_", "7up", "class", 5, None]
)
def test_an_account_that_no_deployment_can_have_is_refused(ledger: JobLedger, name: Any) -> None:
    with pytest.raises(InvalidAccountError, match="1 to 64 letters, digits or '_'"):
        ledger.account(name)
    assert ledger.accounts() == []
    assert track(ledger.account("a" * 64), "a").added == 1
