"""Conformance: which videos are due, and what becomes of them."""

from __future__ import annotations

import json

import pytest

from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger import AccountLedger, JobForgottenError, JobLedger, VideoState
from akool_dagster.ledger.records import DueVideo, VideoFailure
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    DAY,
    HOUR,
    NOW,
    THIS_HOUR,
    answered,
    complete,
    dirty_hours,
    expiring,
    fail,
    job_of,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def due_ids(account: AccountLedger, start: int | None = None, end: int = NOW + 1) -> list[str]:
    """Return the ids of due videos in order."""
    return [video.job_id for video in account.videos.due(start, end)]


def test_a_completed_job_has_a_due_video_and_others_have_none(account: AccountLedger) -> None:
    made = NOW - HOUR
    done, failed, pending = object_id(made, 1), object_id(made, 2), object_id(made, 3)
    track(account, done, failed, pending)
    record(account, answered(done, 3, payload='{"x":1}'), answered(failed, 4), answered(pending, 2))
    assert account.videos.due(None, NOW) == [
        DueVideo(job_id=done, partition_at=made, payload='{"x":1}', expires_at=NOW + 7 * DAY, attempts=0, refusals=0)
    ]


def test_the_videos_of_a_stretch_are_due_and_the_first_to_expire_comes_first(account: AccountLedger) -> None:
    start = THIS_HOUR - DAY
    before, first, last, after = (object_id(at) for at in (start - 1000, start, start + HOUR - 1000, start + HOUR))
    tie = object_id(start, 1)
    expiries = {before: 9, first: 8, tie: 8, last: 7, after: 6}
    track(account, *expiries)
    record(account, *(expiring(job_id, NOW + at) for job_id, at in expiries.items()))
    assert due_ids(account, start, start + HOUR) == [last, first, tie]
    assert due_ids(account, None, start + HOUR) == [last, first, tie, before]


def test_failed_attempts_add_up_until_the_video_is_stored(account: AccountLedger, clock: FakeClock) -> None:
    complete(account, "a")
    fail(account, "a", VideoState.PENDING, next_at=NOW, refused=True)
    fail(account, "a", VideoState.PENDING, next_at=NOW)
    fail(account, "a", VideoState.PENDING, next_at=NOW + 5, refused=True, counts=False)  # it could not be kept
    job = job_of(account, "a")
    assert (job.video_attempts, job.video_refusals, job.video_next_at, job.video_error) == (2, 1, NOW + 5, "404")
    assert due_ids(account) == []
    clock.advance(0.005)
    assert due_ids(account) == ["a"]
    account.videos.store("a", {"path": "akool/videos/a.mp4", "bytes": 5, "sha256": None})
    job = job_of(account, "a")
    assert (job.video_state, job.video_attempts, job.video_refusals, job.video_error) == ("stored", 3, 0, None)
    assert json.loads(job.video_record or "") == {"path": "akool/videos/a.mp4", "bytes": 5, "sha256": None}
    assert (due_ids(account), job.video_next_at) == ([], None)


def test_a_pending_video_has_a_next_attempt_and_an_ended_one_has_none() -> None:
    for state, next_at in ((VideoState.PENDING, None), (VideoState.LOST, NOW)):
        with pytest.raises(ValueError, match="next_at"):
            VideoFailure(job_id="a", error="404", state=state, next_at=next_at)


def test_a_job_that_did_not_complete_has_no_video(ledger: JobLedger, account: AccountLedger) -> None:
    track(account, "a")
    record(account, answered("a", 2))
    before, version = job_of(account, "a"), ledger.version()
    account.videos.store("a", {"path": "a.mp4"})
    fail(account, "unknown")
    account.videos.keep_url("a", "https://cdn.example/new.mp4", NOW)
    assert account.videos.reopen(["a", "unknown"]) == 0
    assert (job_of(account, "a"), ledger.version()) == (before, version)


def test_the_video_of_a_forgotten_job_is_not_recorded(account: AccountLedger) -> None:
    complete(account, "a")
    account.pruning.forget(["a"])
    before = job_of(account, "a")
    with pytest.raises(JobForgottenError, match="a was forgotten"):
        account.videos.store("a", {"path": "a.mp4"})
    with pytest.raises(JobForgottenError):
        fail(account, "a")
    account.videos.keep_url("a", "https://cdn.example/new.mp4", NOW)
    assert account.videos.reopen(["a"]) == 0
    assert job_of(account, "a") == before


def test_a_stored_video_whose_file_is_gone_is_pending_again(account: AccountLedger, clock: FakeClock) -> None:
    complete(account, "a", "b", "pruned")
    for job_id in ("a", "pruned"):
        account.videos.store(job_id, {"path": "a.mp4"})
    account.pruning.prune(["pruned"], END_OF_TIME)
    clock.advance(5)
    version = job_of(account, "a").version
    assert account.videos.reopen(["pruned", "b", "a"]) == 1
    job = job_of(account, "a")
    assert (job.video_state, job.video_next_at, job.video_record) == ("pending", clock.now_ms(), None)
    assert job.version > version
    assert dirty_hours(account)[THIS_HOUR][1] == job.version
    assert job_of(account, "pruned").video_state == VideoState.STORED


def test_a_newer_url_replaces_the_one_there_was_and_nothing_else(account: AccountLedger) -> None:
    track(account, "a")
    payload = {"video_url": "https://cdn.example/old.mp4", "deduction_credit": 3.5, "ü": [2**70, "\u2028"]}
    record(account, answered("a", 3, payload=json.dumps(payload)))
    asked, before = dirty_hours(account), job_of(account, "a")
    for url, expires_at in (("https://cdn.example/new.mp4", NOW + 9 * DAY), ("https://cdn.example/3.mp4", NOW)):
        account.videos.keep_url("a", url, expires_at)
        job = job_of(account, "a")
        assert json.loads(job.payload or "") == payload | {"video_url": url}
        assert job.video_expires_at == NOW + 9 * DAY  # it never goes back
        assert job.version > before.version
        before = job
    account.videos.keep_url("a", "https://cdn.example/3.mp4", NOW + 99 * DAY)
    assert job_of(account, "a") == before
    assert dirty_hours(account) == asked
