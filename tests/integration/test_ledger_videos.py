"""Conformance: which videos are due, and what becomes of them."""

from __future__ import annotations

import json

import pytest

from akool_dagster.ledger import JobLedger, JobState, TrackReport, VideoState
from akool_dagster.ledger.records import DueVideo, DueVideos, VideoFailure
from tests.clock import FakeClock
from tests.integration.ledger_words import (
    ACCOUNT,
    DAY,
    HOUR,
    MINUTE,
    NOW,
    answered,
    complete,
    expiring,
    job_of,
    object_id,
    record,
    track,
)

pytest_plugins = ["tests.integration.ledger_databases"]


def test_a_completed_job_has_a_due_video_and_others_have_none(ledger: JobLedger) -> None:
    made = NOW - HOUR
    done, failed, pending = object_id(made, 1), object_id(made, 2), object_id(made, 3)
    track(ledger, done, failed, pending)
    record(ledger, answered(done, 3, payload='{"x":1}'), answered(failed, 4), answered(pending, 2))
    assert ledger.due_videos(ACCOUNT, None, NOW) == [
        DueVideo(job_id=done, partition_at=made, payload='{"x":1}', expires_at=NOW + 7 * DAY, attempts=0)
    ]


def test_the_first_to_expire_comes_first_and_ties_go_by_id(ledger: JobLedger) -> None:
    track(ledger, "a", "b", "c", "d")
    for job_id, expires_at in (("a", 3), ("b", 1), ("d", 2), ("c", 2)):
        record(ledger, expiring(job_id, NOW + expires_at))
    assert [video.job_id for video in ledger.due_videos(ACCOUNT, 0, NOW + 1)] == ["b", "c", "d", "a"]


def test_only_the_videos_of_the_stretch_are_due(ledger: JobLedger) -> None:
    start = NOW - DAY
    before, first, last, after = (object_id(at) for at in (start - 1000, start, start + HOUR - 1000, start + HOUR))
    complete(ledger, before, first, last, after)
    assert [video.job_id for video in ledger.due_videos(ACCOUNT, start, start + HOUR)] == [first, last]
    assert [video.job_id for video in ledger.due_videos(ACCOUNT, None, start + HOUR)] == [before, first, last]
    assert ledger.due_videos("other", None, NOW) == []


def test_a_failed_download_is_due_again_at_its_time(ledger: JobLedger, clock: FakeClock) -> None:
    complete(ledger, "a")
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="cut short", next_at=NOW + MINUTE))
    job = job_of(ledger, "a")
    assert (job.video_state, job.video_attempts, job.video_error) == (VideoState.PENDING, 1, "cut short")
    clock.advance(59.999)
    assert ledger.due_videos(ACCOUNT, None, NOW + 1) == []
    assert ledger.due_video_hours(ACCOUNT) == []
    clock.advance(0.001)
    assert [video.attempts for video in ledger.due_videos(ACCOUNT, None, NOW + 1)] == [1]
    assert [hour.due for hour in ledger.due_video_hours(ACCOUNT)] == [1]


def test_a_stored_video_is_kept_with_its_record_and_counts_its_attempts(ledger: JobLedger) -> None:
    complete(ledger, "a")
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="cut short", next_at=NOW))
    ledger.store_video(ACCOUNT, "a", {"path": "akool/videos/a.mp4", "bytes": 5, "sha256": None})
    job = job_of(ledger, "a")
    assert (job.state, job.video_state, job.video_attempts) == (JobState.COMPLETED, VideoState.STORED, 2)
    assert (job.video_error, job.video_next_at) == (None, None)
    assert json.loads(job.video_record or "") == {"path": "akool/videos/a.mp4", "bytes": 5, "sha256": None}
    assert ledger.due_videos(ACCOUNT, None, NOW + 1) == []


def test_a_lost_video_is_never_due_again_and_says_why(ledger: JobLedger, clock: FakeClock) -> None:
    complete(ledger, "a")
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="404", next_at=None))
    clock.advance(30 * DAY / 1000)
    job = job_of(ledger, "a")
    assert (job.video_state, job.video_attempts, job.video_error) == (VideoState.LOST, 1, "404")
    assert ledger.due_videos(ACCOUNT, None, NOW + 1) == []
    assert ledger.due_video_hours(ACCOUNT) == []


def test_only_tracking_again_lets_a_lost_video_be_tried_once_more(ledger: JobLedger, clock: FakeClock) -> None:
    complete(ledger, "a", "stored")
    ledger.store_video(ACCOUNT, "stored", {"path": "stored.mp4"})
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="404", next_at=None))
    stored, lost = job_of(ledger, "stored"), job_of(ledger, "a")
    assert track(ledger, "a") == TrackReport(known=1)
    assert job_of(ledger, "a") == lost
    clock.advance(5)
    assert track(ledger, "a", "stored", again=True) == TrackReport(known=2, reopened=1)
    assert job_of(ledger, "stored") == stored
    job = job_of(ledger, "a")
    assert (job.video_state, job.video_attempts, job.video_next_at) == (VideoState.PENDING, 1, clock.now_ms())
    assert job.video_head == job.video_revision > lost.video_revision
    assert (job.head, job.settled_at) == (lost.head, lost.settled_at)
    assert [video.job_id for video in ledger.due_videos(ACCOUNT, None, NOW + 1)] == ["a"]


def test_a_lost_video_whose_payload_is_pruned_stays_lost(ledger: JobLedger) -> None:
    complete(ledger, "a")
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="404", next_at=None))
    ledger.pruning(ACCOUNT).drop(["a"], 0, NOW + 1, landed_revision=job_of(ledger, "a").revision)
    pruned = job_of(ledger, "a")
    assert (pruned.payload, pruned.video_state) == (None, VideoState.LOST)
    assert track(ledger, "a", again=True) == TrackReport(known=1)
    assert job_of(ledger, "a") == pruned


@pytest.mark.parametrize("stored", [True, False])
def test_the_end_of_a_video_is_final(ledger: JobLedger, stored: bool) -> None:
    complete(ledger, "a")

    def end(as_stored: bool) -> None:
        if as_stored:
            ledger.store_video(ACCOUNT, "a", {"path": "a.mp4"})
        else:
            ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="404", next_at=None))

    end(stored)
    before, revision = job_of(ledger, "a"), ledger.revision()
    end(not stored)
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="a", error="late", next_at=NOW))
    assert (job_of(ledger, "a"), ledger.revision()) == (before, revision)


def test_a_job_that_did_not_complete_has_no_video_to_store(ledger: JobLedger) -> None:
    track(ledger, "a")
    before, revision = job_of(ledger, "a"), ledger.revision()
    ledger.store_video(ACCOUNT, "a", {"path": "a.mp4"})
    ledger.fail_video(ACCOUNT, VideoFailure(job_id="unknown", error="404", next_at=None))
    assert (job_of(ledger, "a"), ledger.revision()) == (before, revision)


def test_due_videos_are_counted_by_hour_with_their_earliest_expiry(ledger: JobLedger) -> None:
    start = NOW - NOW % HOUR - 4 * HOUR
    one, two, three = object_id(start), object_id(start + HOUR - 1000), object_id(start + 3 * HOUR)
    track(ledger, one, two, three)
    record(ledger, expiring(one, NOW + 9), expiring(two, NOW + 5), expiring(three, NOW + 7))
    assert ledger.due_video_hours(ACCOUNT) == [
        DueVideos(hour_at=start, due=2, earliest_expiry=NOW + 5),
        DueVideos(hour_at=start + 3 * HOUR, due=1, earliest_expiry=NOW + 7),
    ]
