from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from akool_dagster.emulator.jobs import CREDITS, DAY_MS, EmulatedJob, JobStatus, population

JOB_ID = "6891abe782f7cd2a890c44ba"
NOW_MS = 1_760_000_000_000
URL = "http://127.0.0.1:1/cdn/1-1.mp4"

# The field names of the vendor's two examples.
QUEUED_FIELDS = {
    *("_id", "create_time", "uid", "team_id", "update_time", "video_duration", "webhookUrl", "file_name"),
    *("effect_name", "image_url", "prompt", "resolution", "audio_type", "audio_url", "deduction_credit"),
    *("effect_code", "status", "only_add_audio"),
}
COMPLETED_FIELDS = QUEUED_FIELDS | {"sub_type", "video_url"}

seconds = st.floats(min_value=0, max_value=1000)
polls = st.none() | st.integers(min_value=0, max_value=20)
jobs = st.builds(
    EmulatedJob,
    job_id=st.just(JOB_ID),
    queue_seconds=seconds,
    processing_seconds=seconds,
    queue_polls=polls,
    processing_polls=polls,
    outcome=st.sampled_from(["completed", "failed"]),
)


@given(job=jobs, first=seconds, later=seconds, polled=st.integers(0, 20), polled_later=st.integers(0, 20))
def test_a_job_never_goes_back_and_ends_with_its_outcome(
    job: EmulatedJob, first: float, later: float, polled: int, polled_later: int
) -> None:
    before = job.status(elapsed_seconds=first, earlier_polls=polled)
    after = job.status(elapsed_seconds=first + later, earlier_polls=polled + polled_later)
    end = job.status(elapsed_seconds=2001, earlier_polls=41)
    assert before <= after <= end
    assert end is (JobStatus.COMPLETED if job.outcome == "completed" else JobStatus.FAILED)


def test_seconds_move_a_job_through_its_states() -> None:
    job = EmulatedJob(job_id=JOB_ID, queue_seconds=1, processing_seconds=2)
    states = [job.status(elapsed_seconds=moment, earlier_polls=99) for moment in (-5, 0, 0.99, 1, 2.99, 3, 1e9)]
    assert states == [1, 1, 1, 2, 2, 3, 3]


def test_polls_move_a_job_whatever_the_time() -> None:
    job = EmulatedJob(job_id=JOB_ID, queue_polls=2, processing_polls=1, outcome="failed")
    assert [job.status(elapsed_seconds=1e9, earlier_polls=count) for count in range(5)] == [1, 1, 2, 4, 4]
    unqueued = EmulatedJob(job_id=JOB_ID, processing_polls=1)
    assert [unqueued.status(elapsed_seconds=0, earlier_polls=count) for count in range(3)] == [2, 3, 3]


def test_the_creation_time_is_that_of_the_id_unless_given() -> None:
    assert EmulatedJob(job_id=JOB_ID).create_time == 1_754_377_191_000
    assert EmulatedJob(job_id=JOB_ID, created_ms=1_754_377_191_100).create_time == 1_754_377_191_100


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(({"job_id": bad}, "24 lower-case") for bad in ("", "abc", JOB_ID.upper(), JOB_ID + "0", JOB_ID + "\n")),
        *(({"job_id": JOB_ID, **size}, "even") for size in ({"width": 161}, {"height": 97}, {"width": -2})),
        ({"job_id": JOB_ID, "video_duration": 0}, "lasts longer"),
    ],
)
def test_a_job_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmulatedJob(**fields)


def test_a_completed_row_has_the_fields_of_the_vendors_example() -> None:
    job = EmulatedJob(job_id=JOB_ID, resolution="4k", deduction_credit=30)
    row = job.row(JobStatus.COMPLETED, video_url=URL, settled_ms=NOW_MS)
    assert set(row) == COMPLETED_FIELDS
    assert (row["status"], row["video_url"], row["video_duration"]) == (3, URL, 5.063)
    assert (row["resolution"], row["deduction_credit"], row["sub_type"]) == ("4k", 30, 1501)
    assert row["file_name"] == "Image2Video_Animate this image with .mp4"


def test_a_queued_audio_job_shows_the_times_of_the_video_it_came_from() -> None:
    job = EmulatedJob(job_id=JOB_ID, only_add_audio=True)
    row = job.row(JobStatus.QUEUEING, video_url=URL, settled_ms=None)
    assert set(row) == QUEUED_FIELDS
    assert row["update_time"] == job.create_time - 303_606


@pytest.mark.parametrize("status", [JobStatus.QUEUEING, JobStatus.PROCESSING])
def test_a_row_of_a_plain_job_that_has_not_ended_tells_nothing_of_its_end(status: JobStatus) -> None:
    row = EmulatedJob(job_id=JOB_ID).row(status, video_url=URL, settled_ms=None)
    assert set(row) == QUEUED_FIELDS - {"update_time", "video_duration"}


def test_a_failed_row_has_no_video_and_its_reason() -> None:
    job = EmulatedJob(job_id=JOB_ID, outcome="failed", failure_reason="refused")
    row = job.row(JobStatus.FAILED, video_url=URL, settled_ms=NOW_MS)
    assert row["error_reason"] == "refused"
    assert {"video_url", "video_duration"}.isdisjoint(row)
    silent = replace(job, failure_reason=None)
    assert "error_reason" not in silent.row(JobStatus.FAILED, video_url=URL, settled_ms=NOW_MS)


def test_extra_fields_join_the_row_and_replace_fields() -> None:
    job = EmulatedJob(job_id=JOB_ID, extra_fields={"video_url": "", "cover_url": "x", "uid": None})
    row = job.row(JobStatus.COMPLETED, video_url=URL, settled_ms=NOW_MS)
    assert (row["video_url"], row["cover_url"], row["uid"]) == ("", "x", None)


def test_an_old_job_ended_soon_after_its_creation_and_a_new_one_when_it_was_seen_to() -> None:
    job = EmulatedJob(job_id=JOB_ID, queue_seconds=1, processing_seconds=2)
    assert job.update_time(NOW_MS) == job.create_time + 3000
    assert job.update_time(job.create_time + 500) == job.create_time + 500


moments = st.integers(min_value=1_500_000_000_000, max_value=2_000_000_000_000)


def _date(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / 1000, UTC).date().isoformat()


@settings(max_examples=40)
@given(now_ms=moments, seed=st.integers(0, 2**32), days=st.integers(1, 9))
def test_a_population_fills_the_last_days_evenly(now_ms: int, seed: int, days: int) -> None:
    inhabitants = population(6 * days, seed=seed, now_ms=now_ms, days=days)
    created = [job.create_time for job in inhabitants]
    assert max(created) <= now_ms - 120_000
    assert min(created) > now_ms - (days + 1) * DAY_MS
    assert created == sorted(created)
    by_date = Counter(map(_date, created))
    assert len(by_date) == days
    assert set(by_date.values()) == {6}
    assert all(int(job.job_id[:8], 16) == job.create_time // 1000 for job in inhabitants)


@settings(max_examples=20)
@given(now_ms=moments, seed=st.integers(0, 2**32), days=st.integers(1, 30))
def test_a_populations_jobs_end_in_time_and_their_addresses_live(now_ms: int, seed: int, days: int) -> None:
    for job in population(48, seed=seed, now_ms=now_ms, days=days):
        assert job.update_time(now_ms) <= now_ms
        assert job.update_time(now_ms) + job.url_lifetime_seconds * 1000 > now_ms
        assert 1 <= job.work_seconds <= 8 + 1e-9
        assert 2 <= job.video_duration <= 10


def test_a_population_is_varied_and_priced_like_the_documentation() -> None:
    inhabitants = population(96, seed=3, now_ms=NOW_MS)
    assert {job.resolution for job in inhabitants} == set(CREDITS)
    assert {job.has_audio for job in inhabitants} == {True, False}
    assert any(job.only_add_audio for job in inhabitants)
    failed = [job for job in inhabitants if job.outcome == "failed"]
    assert len(failed) == 12
    assert all(job.failure_reason and job.deduction_credit == 0 for job in failed)
    for job in inhabitants:
        if job.outcome == "completed":
            prices = (5, 10) if job.only_add_audio else CREDITS[job.resolution]
            assert job.deduction_credit == prices[job.video_duration > 5.1]


def test_a_population_follows_from_its_seed() -> None:
    assert population(30, seed=1, now_ms=NOW_MS) == population(30, seed=1, now_ms=NOW_MS)
    first, second = (population(30, seed=seed, now_ms=NOW_MS) for seed in (1, 2))
    assert {job.job_id for job in first}.isdisjoint(job.job_id for job in second)


def test_just_after_midnight_the_days_end_with_yesterday() -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    five_past = round((midnight + timedelta(minutes=5)).timestamp() * 1000)
    dates = {_date(job.create_time) for job in population(8, seed=0, now_ms=five_past, days=2)}
    assert dates == {"2026-02-28", "2026-02-27"}


def test_an_empty_population_is_empty_and_an_impossible_one_is_refused() -> None:
    assert population(0, seed=0, now_ms=NOW_MS) == ()
    with pytest.raises(ValueError, match="fewer than 0"):
        population(-1, seed=0, now_ms=NOW_MS)
    with pytest.raises(ValueError, match="at least 1 day"):
        population(1, seed=0, now_ms=NOW_MS, days=0)
