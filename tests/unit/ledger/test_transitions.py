"""How one observation moves one job: properties that hold for every job and every observation."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger import Answered, JobState, Missed, Observation, Polling, Unanswered, Unreadable, VideoState
from akool_dagster.ledger.transitions import (
    SHOWN_WHEN_POLLED,
    Limits,
    PolledJob,
    observe,
    shows_differently,
)

NOW = 1_760_000_000_000
DAY = 86_400_000
LIMITS = Limits()
POLLING = Polling(next_poll_delay_ms=lambda watched_ms: 7_000, ids_per_request=50)
NEVER_MOVES = ("job_id", "partition_at", "watched_since", "version")
SIGN_OF_LIFE = Answered(job_id="a", status=1, payload="{}", has_video_url=False, video_expires_at=NOW)

times = st.integers(NOW - 10 * DAY, NOW)
maybe_times = st.none() | times
statuses = st.none() | st.integers(1, 4) | st.integers(-5, 9)

jobs = st.builds(
    PolledJob,
    job_id=st.just("a"),
    partition_at=times,
    watched_since=times,
    state=st.just(JobState.PENDING),
    status=statuses,
    next_poll_at=times,
    polls=st.integers(0, 9),
    misses=st.integers(0, 9),
    first_missed_at=maybe_times,
    urlless_polls=st.integers(0, 5),
    call_size=st.none() | st.integers(1, 60),
    last_polled_at=maybe_times,
    last_code=st.none() | st.just(1008),
    last_error=st.none() | st.just("odd"),
    queueing_seen_at=maybe_times,
    processing_seen_at=maybe_times,
    settled_at=st.none(),
    failure_reason=st.none(),
    version=st.just(7),
    video_state=st.none(),
    video_next_at=st.none(),
    video_expires_at=st.none(),
    video_error=st.none(),
)
observations: st.SearchStrategy[Observation] = st.one_of(
    st.builds(
        Answered,
        job_id=st.just("a"),
        status=statuses,
        payload=st.just('{"new":1}'),
        has_video_url=st.booleans(),
        video_expires_at=st.just(NOW + 7 * DAY),
        failure_reason=st.none() | st.just("no face found"),
    ),
    st.builds(Missed, job_id=st.just("a"), code=st.none() | st.just(1003)),
    st.builds(Unreadable, job_id=st.just("a"), error=st.just("odd")),
    st.builds(Unanswered, job_id=st.just("a"), error=st.just("HTTP 500"), others_answered=st.booleans()),
)


def seen(job: PolledJob, observation: Observation, at: int = NOW, limits: Limits = LIMITS) -> PolledJob:
    """Return the job after the observation, to be polled again seven seconds later."""
    return observe(job, observation, at, POLLING, limits)


def bare(**values: object) -> PolledJob:
    """Return a job that was just tracked."""
    nothing: dict[str, object] = dict.fromkeys(field.name for field in fields(PolledJob))
    nothing |= {
        "job_id": "a",
        "state": JobState.PENDING,
        "partition_at": NOW,
        "watched_since": NOW,
        "next_poll_at": NOW,
    }
    return PolledJob(**(nothing | {"polls": 0, "misses": 0, "urlless_polls": 0, "version": 1} | values))  # type: ignore[arg-type]


@given(jobs, observations)
def test_a_poll_is_counted_and_followed_by_another_and_moves_nothing_that_is_fixed(
    job: PolledJob, observation: Observation
) -> None:
    after = seen(job, observation)
    assert all(getattr(after, name) == getattr(job, name) for name in NEVER_MOVES)
    assert (after.polls, after.next_poll_at) == (job.polls + 1, NOW + 7_000)


@given(jobs, observations)
def test_only_status_3_or_4_ends_a_job(job: PolledJob, observation: Observation) -> None:
    after = seen(job, observation)
    if after.state in (JobState.COMPLETED, JobState.FAILED):
        assert isinstance(observation, Answered)
        assert after.state == {3: JobState.COMPLETED, 4: JobState.FAILED}[observation.status or 0]
        assert (after.status, after.payload) == (observation.status, observation.payload)
    elif isinstance(observation, Answered):
        assert observation.status != 4
        assert observation.status != 3 or not observation.has_video_url
    assert (after.settled_at is not None) == (after.state in (JobState.COMPLETED, JobState.FAILED))
    assert (after.video_state == VideoState.PENDING) == (after.state == JobState.COMPLETED)
    assert (after.video_next_at is not None) == (after.state == JobState.COMPLETED)


@given(jobs, observations)
def test_the_first_sight_of_a_status_stays(job: PolledJob, observation: Observation) -> None:
    after = seen(job, observation)
    for name in ("queueing_seen_at", "processing_seen_at"):
        before = getattr(job, name)
        assert getattr(after, name) == before or (before is None and getattr(after, name) == NOW)


@given(jobs, observations)
def test_only_a_second_look_past_its_age_abandons_a_job(job: PolledJob, observation: Observation) -> None:
    after = seen(job, observation)
    old_at = job.watched_since + LIMITS.give_up_ms
    may_be_abandoned = old_at <= NOW and job.last_polled_at is not None and job.last_polled_at >= old_at
    if (isinstance(observation, Unanswered) and not observation.others_answered) or not may_be_abandoned:
        assert after.state != JobState.ABANDONED
    else:
        assert after.state != JobState.PENDING


@given(jobs, observations)
def test_no_answer_changes_nothing_but_when_and_why_to_poll_again(job: PolledJob, observation: Observation) -> None:
    after = seen(job, Unanswered(job_id="a", error="HTTP 500"))
    assert after == replace(job, polls=after.polls, next_poll_at=after.next_poll_at, last_error="HTTP 500")
    assert seen(replace(job, misses=9, first_missed_at=NOW - DAY), Missed(job_id="a")).state != JobState.PENDING
    if not isinstance(observation, Unanswered):
        assert seen(job, observation).last_polled_at == NOW


@given(jobs, st.booleans())
def test_status_3_without_a_url_is_looked_at_five_times_more_unless_the_job_is_too_old(
    job: PolledJob, has_video_url: bool
) -> None:
    done = Answered(job_id="a", status=3, payload="{}", has_video_url=has_video_url, video_expires_at=NOW)
    after = seen(job, done)
    if has_video_url or job.urlless_polls >= 5 or NOW - job.watched_since >= LIMITS.give_up_ms:
        assert after.state == JobState.COMPLETED
        assert has_video_url or "video_url" in (after.video_error or "")
    else:
        assert (after.state, after.urlless_polls) == (JobState.PENDING, job.urlless_polls + 1)


def test_one_look_under_a_clock_that_went_ahead_abandons_nothing() -> None:
    job = seen(bare(), SIGN_OF_LIFE, NOW + 30 * DAY)
    for minute in range(20):
        job = seen(job, SIGN_OF_LIFE, NOW + minute * 60_000)
    for late in (0, 1):
        assert job.state == JobState.PENDING
        job = seen(job, SIGN_OF_LIFE, NOW + LIMITS.give_up_ms + late)
    assert job.state == JobState.ABANDONED


@given(jobs, observations)
def test_what_is_not_a_row_leaves_the_last_row_as_it_was(job: PolledJob, observation: Observation) -> None:
    after = seen(job, observation)
    if not isinstance(observation, Answered):
        assert (after.status, after.payload, after.failure_reason) == (job.status, None, job.failure_reason)
    assert (after.misses == 0) == (
        isinstance(observation, Answered | Unreadable) or (isinstance(observation, Unanswered) and job.misses == 0)
    )


@given(jobs, observations)
def test_a_job_shows_differently_when_a_table_shows_what_changed(job: PolledJob, observation: Observation) -> None:
    after = seen(job, observation)
    assert shows_differently(job, after) or after.state == job.state
    unshown = {field.name for field in fields(PolledJob)} - set(SHOWN_WHEN_POLLED)
    assert not shows_differently(job, replace(job, **{name: getattr(after, name) for name in unshown}))


@given(jobs, observations)
def test_a_call_size_doubles_with_every_answer_of_a_call_up_to_a_whole_one(
    job: PolledJob, observation: Observation
) -> None:
    after = seen(job, observation)
    if isinstance(observation, Unanswered) or (isinstance(observation, Missed) and observation.code is not None):
        assert after.call_size == job.call_size
    else:
        assert after.call_size == (2 * job.call_size if job.call_size and 2 * job.call_size < 50 else None)


@given(st.integers(1, 5), st.integers(0, 60))
def test_a_job_is_missing_after_the_misses_and_the_time_that_the_limits_say(misses: int, minutes: int) -> None:
    limits = Limits(misses=misses, miss_grace_ms=minutes * 60_000)
    job, number = bare(), 0
    while job.state == JobState.PENDING:
        number += 1
        job = seen(job, Missed(job_id="a"), NOW + (number - 1) * 60_000, limits)
    assert (job.state, number) == (JobState.MISSING, max(misses, minutes + 1))


@pytest.mark.parametrize(("code", "grace"), [(None, timedelta(days=1)), (1008, timedelta(minutes=10))])
def test_a_job_that_akool_returned_before_is_missing_after_a_day_or_when_it_is_refused(
    code: int | None, grace: timedelta
) -> None:
    job = bare(status=2)
    for minute in range(0, int(grace / timedelta(minutes=1)) + 1, 2):
        assert job.state == JobState.PENDING
        job = seen(job, Missed(job_id="a", code=code), NOW + minute * 60_000)
    assert job.state == JobState.MISSING


def test_misses_under_a_clock_that_was_set_back_since_take_no_longer() -> None:
    job = seen(bare(), Missed(job_id="a"), NOW + 30 * 3_600_000)
    for minute in range(0, 11, 2):
        assert job.state == JobState.PENDING
        job = seen(job, Missed(job_id="a"), NOW + minute * 60_000)
    assert job.state == JobState.MISSING
