"""How one observation moves one job: properties that hold for every job and every observation."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger import Answered, Job, JobState, Missed, Observation, Unreadable, VideoState
from akool_dagster.ledger.transitions import Limits, asks_for_landing, observe, shows_differently

NOW = 1_760_000_000_000
DAY = 86_400_000
LIMITS = Limits()
NEVER_MOVES = ("account", "job_id", "partition_at", "tracked_at", "watched_since", "labels")
STAMPS = ("revision", "head", "video_revision", "video_head")

moments = st.integers(NOW - 10 * DAY, NOW)
maybe_moments = st.none() | moments
statuses = st.none() | st.integers(1, 4) | st.integers(-5, 9)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Draw a job as the ledger may hold it."""
    state = draw(st.sampled_from(JobState))
    final = state in (JobState.COMPLETED, JobState.FAILED)
    tracked_at = draw(moments)
    video = draw(st.sampled_from(VideoState)) if state == JobState.COMPLETED else None
    return Job(
        account="akool",
        job_id="a",
        partition_at=draw(moments),
        tracked_at=tracked_at,
        watched_since=draw(st.integers(tracked_at, NOW)),
        labels="{}",
        state=state,
        status=draw(statuses),
        next_poll_at=draw(moments),
        polls=draw(st.integers(0, 9)),
        misses=draw(st.integers(0, 9)),
        first_missed_at=draw(maybe_moments),
        urlless_polls=draw(st.integers(0, 5)),
        poll_alone=draw(st.booleans()),
        last_polled_at=draw(maybe_moments),
        last_code=draw(st.none() | st.just(1008)),
        last_error=draw(st.none() | st.just("odd")),
        queueing_seen_at=draw(maybe_moments),
        processing_seen_at=draw(maybe_moments),
        settled_at=draw(moments) if final else None,
        failure_reason=None,
        payload=draw(st.none() | st.just("{}")),
        revision=7,
        head=5,
        video_state=video,
        video_attempts=0,
        video_next_at=NOW if video == VideoState.PENDING else None,
        video_expires_at=NOW if video else None,
        video_error=None,
        video_record=None,
        video_revision=6,
        video_head=6,
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
    st.builds(Missed, job_id=st.just("a"), code=st.none() | st.just(1003), alone=st.booleans()),
    st.builds(Unreadable, job_id=st.just("a"), error=st.just("odd")),
)


def seen(job: Job, observation: Observation) -> Job:
    """Return the job after the observation, to be looked at again seven seconds later."""
    return observe(job, observation, NOW, lambda age_ms: 7_000, LIMITS)


@given(jobs(), observations)
def test_only_a_pending_job_moves_and_never_what_is_fixed(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    if job.state != JobState.PENDING:
        assert after == job
    assert all(getattr(after, name) == getattr(job, name) for name in (*NEVER_MOVES, *STAMPS))


@given(jobs(), observations)
def test_only_status_3_or_4_ends_a_job(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    ended = job.state == JobState.PENDING and after.state in (JobState.COMPLETED, JobState.FAILED)
    if ended:
        assert isinstance(observation, Answered)
        assert after.state == {3: JobState.COMPLETED, 4: JobState.FAILED}[observation.status or 0]
        assert (after.status, after.payload) == (observation.status, observation.payload)
    if job.state == JobState.PENDING and isinstance(observation, Answered) and observation.status == 4:
        assert after.state == JobState.FAILED


@given(jobs(), observations)
def test_a_settled_job_has_a_time_and_a_completed_one_a_video(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    assert (after.settled_at is not None) == (after.state in (JobState.COMPLETED, JobState.FAILED))
    assert (after.video_state is not None) == (after.state == JobState.COMPLETED)
    assert (after.video_next_at is not None) == (after.video_state == VideoState.PENDING)


@given(jobs(), observations)
def test_every_look_at_a_pending_job_is_counted_and_followed_by_another(job: Job, observation: Observation) -> None:
    after = seen(replace(job, state=JobState.PENDING, settled_at=None, video_state=None), observation)
    assert (after.polls, after.last_polled_at, after.next_poll_at) == (job.polls + 1, NOW, NOW + 7_000)


@given(jobs(), observations)
def test_the_first_sight_of_a_status_stays(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    for name in ("queueing_seen_at", "processing_seen_at"):
        before = getattr(job, name)
        assert getattr(after, name) == before or (before is None and getattr(after, name) == NOW)


@given(jobs(), observations)
def test_no_second_look_past_its_give_up_age_leaves_a_job_pending(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    too_old = NOW - job.watched_since >= LIMITS.give_up_ms
    was_too_old = job.last_polled_at is not None and job.last_polled_at - job.watched_since >= LIMITS.give_up_ms
    assert not (too_old and was_too_old and after.state == JobState.PENDING)
    if after.state == JobState.ABANDONED and job.state == JobState.PENDING:
        assert too_old
        assert was_too_old


@given(jobs(), st.booleans())
def test_what_akool_calls_completed_is_never_abandoned_for_its_missing_url(job: Job, has_video_url: bool) -> None:
    done = Answered(
        job_id="a", status=3, payload="{}", has_video_url=has_video_url, video_expires_at=NOW, failure_reason=None
    )
    old = replace(job, state=JobState.PENDING, watched_since=NOW - LIMITS.give_up_ms)
    assert seen(old, done).state == JobState.COMPLETED


def test_one_look_under_a_clock_that_went_ahead_gives_up_nothing() -> None:
    def look(job: Job, at: int) -> Job:
        return observe(job, answer, at, lambda age_ms: 0, LIMITS)

    answer = Answered(job_id="a", status=2, payload="{}", has_video_url=False, video_expires_at=NOW)
    job = look(replace(_bare(), watched_since=NOW), NOW + 30 * DAY)
    for minute in range(20):
        job = look(job, NOW + minute * 60_000)
    assert job.state == JobState.PENDING
    job = look(job, NOW + LIMITS.give_up_ms)
    assert job.state == JobState.PENDING
    assert look(job, NOW + LIMITS.give_up_ms + 1).state == JobState.ABANDONED


@given(jobs(), observations)
def test_what_is_not_a_row_leaves_the_last_row_as_it_was(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    if not isinstance(observation, Answered):
        assert (after.status, after.payload, after.failure_reason) == (job.status, job.payload, job.failure_reason)


@given(jobs(), observations)
def test_what_asks_for_a_landing_is_also_shown_by_one(job: Job, observation: Observation) -> None:
    after = seen(job, observation)
    assert asks_for_landing(job, after) == (job.state != after.state)
    assert shows_differently(job, after) or not asks_for_landing(job, after)


@given(jobs())
def test_a_job_that_did_not_change_shows_and_asks_nothing(job: Job) -> None:
    bookkeeping = replace(job, polls=99, misses=9, next_poll_at=0, last_error="x", payload="{}", poll_alone=True)
    assert not shows_differently(job, bookkeeping)
    assert not asks_for_landing(job, bookkeeping)


@given(st.integers(1, 5), st.integers(0, 60))
def test_patience_is_what_the_limits_say(misses: int, minutes: int) -> None:
    limits = Limits(misses=misses, miss_grace_ms=minutes * 60_000)
    job = replace(_bare(), tracked_at=NOW, watched_since=NOW)
    for number in range(1, 80):
        now = NOW + (number - 1) * 60_000
        job = observe(job, Missed(job_id="a"), now, lambda age_ms: 60_000, limits)
        patient = number < misses or number - 1 < minutes
        assert job.state == (JobState.PENDING if patient else JobState.MISSING)
        if not patient:
            return
    raise AssertionError("its patience never ended")


@pytest.mark.parametrize(("code", "grace"), [(None, timedelta(days=1)), (1008, timedelta(minutes=10))])
def test_a_job_that_akool_returned_before_is_missing_after_a_day_or_when_it_is_refused(
    code: int | None, grace: timedelta
) -> None:
    job = replace(_bare(), status=2, watched_since=NOW)
    minutes = int(grace / timedelta(minutes=1))
    for minute in range(0, minutes + 1, 2):
        assert job.state == JobState.PENDING
        job = observe(job, Missed(job_id="a", code=code), NOW + minute * 60_000, lambda age_ms: 0, LIMITS)
    assert job.state == JobState.MISSING


def test_misses_under_a_clock_that_was_set_back_since_need_no_more_patience() -> None:
    ahead = observe(
        replace(_bare(), watched_since=NOW), Missed(job_id="a"), NOW + 30 * 3_600_000, lambda age_ms: 0, LIMITS
    )
    job = ahead
    for minute in range(0, 11, 2):
        assert job.state == JobState.PENDING
        job = observe(job, Missed(job_id="a"), NOW + minute * 60_000, lambda age_ms: 0, LIMITS)
    assert job.state == JobState.MISSING


def _bare() -> Job:
    zeros = {"polls", "misses", "urlless_polls", "video_attempts", *STAMPS}
    values: dict[str, object] = {one.name: 0 if one.name in zeros else None for one in fields(Job)}
    values |= {"account": "akool", "job_id": "a", "partition_at": NOW, "labels": "{}", "state": JobState.PENDING}
    return Job(**values)  # type: ignore[arg-type]
