"""Conformance: how Akool's answers move a job, and what survives in the database."""

from __future__ import annotations

import pytest

from akool_dagster.ledger import JobLedger, JobState, Missed, Observation, RecordReport, Unreadable, VideoState
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

GIVE_UP_SECONDS = 7 * DAY / 1000


@pytest.fixture
def watched(ledger: JobLedger) -> JobLedger:
    """Give a ledger that watches the id ``a``."""
    track(ledger, "a")
    return ledger


def test_each_status_is_first_seen_once(watched: JobLedger, clock: FakeClock) -> None:
    for status in (1, 1, 2, 1, 2):
        record(watched, answered("a", status))
        clock.advance(10)
    job = job_of(watched, "a")
    assert (job.state, job.status, job.polls) == (JobState.PENDING, 2, 5)
    assert (job.queueing_seen_at, job.processing_seen_at) == (NOW, NOW + 20_000)
    assert (job.last_polled_at, job.next_poll_at) == (NOW + 40_000, NOW + 45_000)


def test_status_3_with_a_url_completes_a_job_and_makes_its_video_due(watched: JobLedger, clock: FakeClock) -> None:
    clock.advance(30)
    report = record(watched, answered("a", 3, payload='{"video_url":"https://cdn.example/ü.mp4"}'))
    assert report == RecordReport(completed=1, changed=1)
    job = job_of(watched, "a")
    assert (job.state, job.status, job.settled_at) == (JobState.COMPLETED, 3, NOW + 30_000)
    assert job.payload == '{"video_url":"https://cdn.example/ü.mp4"}'
    assert (job.video_state, job.video_next_at, job.video_expires_at, job.video_attempts) == (
        VideoState.PENDING,
        NOW + 30_000,
        NOW + 7 * DAY,
        0,
    )
    assert (job.video_error, job.last_error) == (None, None)


@pytest.mark.parametrize("reason", [None, "the image could not be read"])
def test_status_4_fails_a_job_with_the_reason_if_there_is_one(watched: JobLedger, reason: str | None) -> None:
    assert record(watched, answered("a", 4, reason=reason)) == RecordReport(failed=1, changed=1)
    job = job_of(watched, "a")
    assert (job.state, job.status, job.settled_at, job.failure_reason) == (JobState.FAILED, 4, NOW, reason)
    assert (job.video_state, job.video_next_at) == (None, None)


@pytest.mark.parametrize("status", [0, 5, -1, 2**63 - 1, -(2**63), None])
def test_an_unknown_status_is_kept_as_sent_and_ends_nothing(watched: JobLedger, status: int | None) -> None:
    record(watched, answered("a", status))
    job = job_of(watched, "a")
    assert (job.state, job.status, job.queueing_seen_at, job.processing_seen_at) == (
        JobState.PENDING,
        status,
        None,
        None,
    )


def test_four_misses_are_not_enough_however_long_they_take(watched: JobLedger, clock: FakeClock) -> None:
    for _ in range(4):
        record(watched, Missed(job_id="a"))
        clock.advance(3600)
    job = job_of(watched, "a")
    assert (job.state, job.misses, job.first_missed_at) == (JobState.PENDING, 4, NOW)


def test_ten_minutes_are_needed_however_many_misses_there_were(watched: JobLedger, clock: FakeClock) -> None:
    record(watched, Missed(job_id="a"))
    clock.advance(599.999)
    for _ in range(20):
        record(watched, Missed(job_id="a"))
    assert job_of(watched, "a").state == JobState.PENDING
    clock.advance(0.001)
    assert record(watched, Missed(job_id="a")) == RecordReport(missing=1, changed=1)
    job = job_of(watched, "a")
    assert (job.state, job.settled_at, job.misses) == (JobState.MISSING, None, 22)


@pytest.mark.parametrize("sign_of_life", [answered("a", 1), Unreadable(job_id="a", error="status is odd")])
def test_a_row_ends_the_misses_in_a_row(watched: JobLedger, clock: FakeClock, sign_of_life: Observation) -> None:
    for _ in range(4):
        record(watched, Missed(job_id="a"))
        clock.advance(300)
    record(watched, sign_of_life)
    assert (job_of(watched, "a").misses, job_of(watched, "a").first_missed_at) == (0, None)
    record(watched, Missed(job_id="a"))
    assert (job_of(watched, "a").state, job_of(watched, "a").misses) == (JobState.PENDING, 1)


def test_a_missing_row_is_not_a_finished_job(watched: JobLedger, clock: FakeClock) -> None:
    lose(watched, clock, "a")
    job = job_of(watched, "a")
    assert (job.state, job.settled_at, job.video_state) == (JobState.MISSING, None, None)
    assert claimed_ids(watched) == []


def test_a_content_code_is_kept_and_the_id_is_polled_alone_until_akool_returns_it(
    watched: JobLedger, clock: FakeClock
) -> None:
    record(watched, Missed(job_id="a", code=1008, alone=True))
    job = job_of(watched, "a")
    assert (job.poll_alone, job.last_code, job.misses) == (True, 1008, 1)
    assert job.last_error is not None
    assert "1008" in job.last_error
    clock.advance(5)
    assert [claimed.poll_alone for claimed in watched.claim(ACCOUNT, 1)] == [True]
    record(watched, answered("a", 1))
    job = job_of(watched, "a")
    assert (job.poll_alone, job.last_code, job.last_error) == (False, None, None)


def test_an_id_that_spoils_a_whole_call_is_polled_alone_even_when_it_is_readable_later(watched: JobLedger) -> None:
    record(watched, Unreadable(job_id="a", error="HTTP 500", alone=True))
    assert job_of(watched, "a").poll_alone is True
    record(watched, Unreadable(job_id="a", error="status is odd"))
    assert job_of(watched, "a").poll_alone is True


def test_status_3_without_a_url_is_looked_at_again_five_times(watched: JobLedger, clock: FakeClock) -> None:
    for number in range(1, 6):
        assert record(watched, answered("a", 3, url=False)).completed == 0
        job = job_of(watched, "a")
        assert (job.state, job.status, job.urlless_polls) == (JobState.PENDING, 3, number)
        clock.advance(5)
        assert claimed_ids(watched) == ["a"]
    assert record(watched, answered("a", 3, url=False)).completed == 1
    job = job_of(watched, "a")
    assert (job.state, job.video_state, job.video_next_at) == (JobState.COMPLETED, VideoState.PENDING, clock.now_ms())
    assert job.video_error is not None
    assert "video_url" in job.video_error
    assert [due.job_id for due in watched.due_videos(ACCOUNT, None, NOW + DAY)] == ["a"]


def test_a_url_that_comes_late_is_still_downloaded(watched: JobLedger) -> None:
    for _ in range(5):
        record(watched, answered("a", 3, url=False))
    record(watched, answered("a", 3))
    job = job_of(watched, "a")
    assert (job.state, job.video_state, job.last_error) == (JobState.COMPLETED, VideoState.PENDING, None)


def test_an_unreadable_row_leaves_the_job_pending_with_the_error(watched: JobLedger) -> None:
    record(watched, answered("a", 2))
    payload = job_of(watched, "a").payload
    assert record(watched, Unreadable(job_id="a", error="status is not a number")) == RecordReport()
    job = job_of(watched, "a")
    assert (job.state, job.status, job.payload, job.last_error, job.polls) == (
        JobState.PENDING,
        2,
        payload,
        "status is not a number",
        2,
    )


@pytest.mark.parametrize(
    "seen",
    [answered("a", 1), answered("a", 77), Missed(job_id="a"), Unreadable(job_id="a", error="odd")],
    ids=["queueing", "unknown status", "missed", "unreadable"],
)
def test_a_job_without_an_end_is_abandoned_after_seven_days(
    watched: JobLedger, clock: FakeClock, seen: Observation
) -> None:
    clock.advance(GIVE_UP_SECONDS - 0.001)
    assert record(watched, seen).abandoned == 0
    clock.advance(0.001)
    assert record(watched, seen).abandoned == 0  # one look may be under a wrong clock
    clock.advance(600)
    assert record(watched, seen).abandoned == 1
    job = job_of(watched, "a")
    assert (job.state, job.settled_at) == (JobState.ABANDONED, None)
    assert claimed_ids(watched) == []


def test_an_end_seen_after_seven_days_still_counts(watched: JobLedger, clock: FakeClock) -> None:
    clock.advance(2 * GIVE_UP_SECONDS)
    assert record(watched, answered("a", 3)) == RecordReport(completed=1, changed=1)


def test_the_seven_days_count_from_the_reopening(watched: JobLedger, clock: FakeClock) -> None:
    clock.advance(GIVE_UP_SECONDS)
    assert [record(watched, answered("a", 1)).abandoned for _ in range(2)] == [0, 1]
    track(watched, "a", again=True)
    record(watched, answered("a", 1))
    assert job_of(watched, "a").state == JobState.PENDING


@pytest.mark.parametrize("final", [3, 4])
def test_a_final_job_never_moves(watched: JobLedger, clock: FakeClock, final: int) -> None:
    record(watched, answered("a", final))
    before, revision = job_of(watched, "a"), watched.revision()
    for seen in (
        answered("a", 1),
        answered("a", 3, payload='{"other":1}'),
        answered("a", 4, reason="late"),
        Missed(job_id="a", code=1009, alone=True),
        Unreadable(job_id="a", error="odd"),
    ):
        clock.advance(8 * DAY / 1000)
        assert record(watched, seen) == RecordReport()
    assert (job_of(watched, "a"), watched.revision()) == (before, revision)


@pytest.mark.parametrize("final", [3, 4])
def test_a_late_answer_does_not_reopen_a_missing_job(watched: JobLedger, clock: FakeClock, final: int) -> None:
    lose(watched, clock, "a")
    assert record(watched, answered("a", final)) == RecordReport()
    assert job_of(watched, "a").state == JobState.MISSING


def test_answers_about_unknown_ids_are_no_news(ledger: JobLedger) -> None:
    track(ledger, "a")
    revision = ledger.revision()
    assert record(ledger, answered("b", 3), Missed(job_id="c")) == RecordReport()
    assert [job.job_id for job in ledger.iter_jobs(ACCOUNT)] == ["a"]
    assert ledger.revision() == revision


def test_recording_nothing_is_nothing(ledger: JobLedger) -> None:
    assert record(ledger) == RecordReport()


def test_one_call_may_move_every_job_differently(ledger: JobLedger) -> None:
    track(ledger, "a", "b", "c", "d")
    report = record(
        ledger,
        answered("a", 3),
        answered("b", 4),
        answered("c", 1),
        Unreadable(job_id="d", error="odd"),
        answered("e", 3),
    )
    assert report == RecordReport(completed=1, failed=1, changed=3)
    assert {job.job_id: job.state for job in ledger.iter_jobs(ACCOUNT)} == {
        "a": JobState.COMPLETED,
        "b": JobState.FAILED,
        "c": JobState.PENDING,
        "d": JobState.PENDING,
    }


def test_an_answer_of_more_jobs_than_one_query_takes_is_recorded_whole(ledger: JobLedger) -> None:
    ids = [f"{number:04}" for number in range(1100)]
    track(ledger, *ids)
    assert record(ledger, *(answered(job_id, 4) for job_id in ids)) == RecordReport(failed=1100, changed=1100)
    assert ledger.counts(ACCOUNT).states == {JobState.FAILED: 1100}


def test_the_schedule_is_asked_with_how_long_the_job_has_been_watched(ledger: JobLedger, clock: FakeClock) -> None:
    old = object_id(NOW - DAY)
    track(ledger, old)
    clock.advance(100)
    ledger.record(ACCOUNT, [answered(old, 1)], lambda age_ms: age_ms)
    assert job_of(ledger, old).next_poll_at == NOW + 200_000


def test_a_clock_set_back_gives_no_negative_age(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "a")
    clock.jump(-3600)
    ledger.record(ACCOUNT, [answered("a", 1)], lambda age_ms: age_ms)
    assert job_of(ledger, "a").next_poll_at == clock.now_ms()


def test_what_was_recorded_survives_reopening_the_ledger(ledger: JobLedger, ledger_url: str) -> None:
    complete(ledger, "a")
    before = job_of(ledger, "a")
    with JobLedger.open(ledger_url) as reopened:
        assert reopened.ledger_id == ledger.ledger_id
        assert job_of(reopened, "a") == before
