"""What the ledger does when the machine's clock was wrong, and when Akool gives a video a new URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from akool_dagster.ledger import JobLedger, Unreadable
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, answered, claimed_ids, complete, expiring, job_of, record, track

DAY_SECONDS = 86_400


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        yield ledger


def test_a_clock_set_back_does_not_leave_jobs_and_videos_waiting_for_the_wrong_moment(
    ledger: JobLedger, clock: FakeClock
) -> None:
    clock.jump(DAY_SECONDS)
    track(ledger, "pending", "done")
    record(ledger, answered("pending", 1))
    complete(ledger, "done")
    clock.jump(-DAY_SECONDS)
    assert claimed_ids(ledger) == []
    assert ledger.due_video_hours(ACCOUNT) == []
    ledger.mend_schedule(ACCOUNT)
    assert claimed_ids(ledger) == ["pending"]
    assert sum(hour.due for hour in ledger.due_video_hours(ACCOUNT)) == 1


def test_a_job_tracked_under_a_clock_that_was_ahead_is_given_up_at_its_age_all_the_same(
    ledger: JobLedger, clock: FakeClock
) -> None:
    clock.jump(300 * DAY_SECONDS)
    track(ledger, "pending")
    clock.jump(-300 * DAY_SECONDS)
    ledger.mend_schedule(ACCOUNT)
    assert job_of(ledger, "pending").watched_since == clock.now_ms()
    clock.advance(7 * DAY_SECONDS)
    record(ledger, answered("pending", 1))
    record(ledger, answered("pending", 1))
    assert job_of(ledger, "pending").state == "abandoned"


def test_mending_the_schedule_leaves_every_wait_of_ours_alone(ledger: JobLedger, clock: FakeClock) -> None:
    track(ledger, "pending")
    clock.advance(3 * DAY_SECONDS)
    record(ledger, answered("pending", 1))
    before = job_of(ledger, "pending")
    assert before.next_poll_at > clock.now_ms() > before.watched_since
    ledger.mend_schedule(ACCOUNT)
    assert job_of(ledger, "pending") == before


def test_a_newer_url_of_a_completed_job_prolongs_its_videos_life_and_never_shortens_it(
    ledger: JobLedger, clock: FakeClock
) -> None:
    track(ledger, "done")
    record(ledger, expiring("done", clock.now_ms() + 1000))
    later = clock.now_ms() + 9_000_000
    ledger.keep_video_url(ACCOUNT, "done", "https://cdn.example/new.mp4", later)
    assert job_of(ledger, "done").video_expires_at == later
    ledger.keep_video_url(ACCOUNT, "done", "https://cdn.example/newer.mp4", clock.now_ms())
    assert job_of(ledger, "done").video_expires_at == later


def test_an_unreadable_id_that_fails_whole_calls_is_polled_alone(ledger: JobLedger) -> None:
    track(ledger, "odd")
    record(ledger, Unreadable(job_id="odd", error="code 4711", alone=True))
    job = job_of(ledger, "odd")
    assert (job.state, job.poll_alone, job.last_error) == ("pending", True, "code 4711")
