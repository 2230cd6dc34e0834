"""Conformance: whatever happens in whatever order, the ledger's invariants hold."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from akool_dagster.ledger import (
    Counts,
    Job,
    JobLedger,
    JobState,
    Missed,
    Observation,
    TrackRequest,
    Unreadable,
    VideoState,
)
from akool_dagster.ledger.records import DueVideos, HourHead, VideoFailure, status_label
from akool_dagster.ledger.transitions import SHOWN_FIELDS
from tests.clock import FakeClock
from tests.integration.ledger_words import DAY, HOUR, NOW, POLL_EVERY, answered, object_id
from tests.thoroughness import thorough

pytest_plugins = ["tests.integration.ledger_databases"]

IDS = (object_id(NOW - DAY), object_id(NOW - HOUR), object_id(NOW + HOUR), "one", "two")
FIRST_PARTITION_AT = NOW - 2 * HOUR
NEXT_PARTITION_AT = NOW + HOUR // 2
FINAL_FIELDS = ("state", "status", "settled_at", "failure_reason", "partition_at", "tracked_at")
MARKS = ("revision", "head", "video_revision", "video_head")
VIDEO_FIELDS = ("video_state", "video_record", "video_error", "video_attempts", "video_expires_at")

some_ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=4)
payloads = st.sampled_from(['{"n":1}', '{"n":2}'])
answers = st.builds(
    answered,
    st.sampled_from(IDS),
    st.sampled_from([1, 2, 2, 3, 3, 4, 7, None]),
    url=st.booleans(),
    payload=payloads,
    reason=st.sampled_from([None, "no face found"]),
)
misses = st.builds(Missed, job_id=st.sampled_from(IDS), code=st.sampled_from([None, 1008]), alone=st.booleans())
unreadables = st.builds(Unreadable, job_id=st.sampled_from(IDS), error=st.just("odd"))
observations = st.lists(st.one_of(answers, misses, misses, unreadables), min_size=1, max_size=4)


class LedgerMachine(RuleBasedStateMachine):
    """Does what a deployment may do to a ledger, and compares it with what it was before and with a count by hand."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = JobLedger.open(self.url, clock=self.clock)
        self.account = "a" + uuid.uuid4().hex  # one database serves every example
        self.counter = self.ledger.revision()
        self.before: dict[str, Job] = {}
        self.claimed_until: dict[str, int] = {}
        self.again = self.anew = False

    def teardown(self) -> None:
        self.ledger.close()

    @rule(ids=some_ids, label=st.sampled_from(["", "spring", "autumn"]), again=st.booleans())
    def track(self, ids: Sequence[str], label: str, again: bool) -> None:
        requests = [TrackRequest(job_id=job_id, labels={"campaign": label} if label else {}) for job_id in ids]
        report = self.ledger.track(self.account, requests, again=again)
        self.again = again
        new = set(ids) - self.before.keys()
        assert (report.added, report.known, report.repeated) == (
            len(new),
            len(set(ids)) - len(new),
            len(ids) - len(set(ids)),
        )
        if again:
            for job_id in set(ids) & self.before.keys():
                if self.before[job_id].state in (JobState.MISSING, JobState.ABANDONED):
                    self.claimed_until.pop(job_id, None)

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        now = self.clock.now_ms()
        due = [job for job in self.before.values() if job.state == JobState.PENDING and job.next_poll_at <= now]
        expected = sorted(due, key=lambda job: (job.next_poll_at, job.job_id))[:limit]
        claimed = self.ledger.claim(self.account, limit)
        assert [job.job_id for job in claimed] == [job.job_id for job in expected]
        for job in claimed:
            assert self.claimed_until.get(job.job_id, 0) <= now
            self.claimed_until[job.job_id] = now + 120_000

    @rule(ids=some_ids)
    def release(self, ids: Sequence[str]) -> None:
        self.ledger.release(self.account, ids, until=self.clock.now_ms())
        for job_id in ids:
            self.claimed_until.pop(job_id, None)

    @rule(seen=observations)
    def record(self, seen: Sequence[Observation]) -> None:
        report = self.ledger.record(self.account, seen, lambda age_ms: POLL_EVERY)
        settled = Counter(job.state for job in self.ledger.iter_jobs(self.account)) - Counter(
            job.state for job in self.before.values()
        )
        assert (report.completed, report.failed, report.missing, report.abandoned) == tuple(
            settled[state] for state in (JobState.COMPLETED, JobState.FAILED, JobState.MISSING, JobState.ABANDONED)
        )
        for one in seen:
            self.claimed_until.pop(one.job_id, None)

    @rule(seen=st.sampled_from(IDS), url=st.sampled_from(["https://cdn.example/1", "https://cdn.example/2"]))
    def refresh(self, seen: str, url: str) -> None:
        self.ledger.keep_video_url(self.account, seen, url, self.clock.now_ms())

    @rule(job_id=st.sampled_from(IDS))
    def store(self, job_id: str) -> None:
        self.ledger.store_video(self.account, job_id, {"path": job_id})

    @rule(job_id=st.sampled_from(IDS), wait=st.sampled_from([None, 0, 30_000]))
    def fail(self, job_id: str, wait: int | None) -> None:
        next_at = None if wait is None else self.clock.now_ms() + wait
        self.ledger.fail_video(self.account, VideoFailure(job_id=job_id, error="404", next_at=next_at))

    @rule(by=st.integers(0, 5))
    def meet_a_landed_revision(self, by: int) -> None:
        self.ledger.landings(self.account).land_anew(0, 2**53, above=self.counter + by)
        self.anew = True

    @rule(seconds=st.sampled_from([1, 30, 120, 200, 3600, 2 * 86_400, 7 * 86_400]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def everything_holds(self) -> None:
        jobs = {job.job_id: job for job in self.ledger.iter_jobs(self.account)}
        counter = self.ledger.revision()
        assert counter >= self.counter
        assert self.before.keys() <= jobs.keys()
        for job_id, job in jobs.items():
            _check_job(job, counter)
            if job_id in self.before and self.anew:
                _check_stamped_anew(self.before[job_id], job, self.counter)
            elif job_id in self.before:
                _check_step(self.before[job_id], job, self.counter, again=self.again)
            else:
                assert (job.revision > self.counter, job.head, job.video_head) == (True, 0, 0)
        found = list(jobs.values())
        assert self.ledger.heads(self.account) == _heads(found)
        assert self.ledger.counts(self.account, FIRST_PARTITION_AT, NEXT_PARTITION_AT) == _counts(
            found, self.clock.now_ms()
        )
        assert self.ledger.due_video_hours(self.account) == _due_video_hours(found, self.clock.now_ms())
        self.before, self.counter, self.again, self.anew = jobs, counter, False, False


def _check_job(job: Job, counter: int) -> None:
    assert 0 <= job.head <= job.revision <= counter
    assert 0 <= job.video_head <= job.video_revision <= counter
    assert (job.settled_at is not None) == (job.state in (JobState.COMPLETED, JobState.FAILED))
    assert (job.video_state is not None) == (job.state == JobState.COMPLETED)
    assert (job.video_state == VideoState.PENDING) == (job.video_next_at is not None)


def _check_step(before: Job, after: Job, counter: int, *, again: bool) -> None:
    """Check one step of one job: ``counter`` is what the ledger's revision was before it, ``again`` the word for it."""

    def changed(*names: str) -> bool:
        return any(getattr(before, name) != getattr(after, name) for name in names)

    assert not changed("partition_at", "tracked_at")
    if before.state in (JobState.COMPLETED, JobState.FAILED):
        assert not changed(*FINAL_FIELDS)
        assert before.payload == after.payload or before.state == JobState.COMPLETED
    if before.video_state == VideoState.STORED:
        assert not changed(*VIDEO_FIELDS)
    if before.video_state == VideoState.LOST:
        assert not changed("video_record", "video_error", "video_attempts", "video_expires_at")
        assert after.video_state == VideoState.LOST or (again and after.video_state == VideoState.PENDING)
    refreshed = before.state == after.state == JobState.COMPLETED and changed("payload")
    assert (after.revision > counter) == (refreshed or changed(*SHOWN_FIELDS))
    assert (after.head > counter) == changed("state", "labels")
    assert (after.video_revision > counter) == changed(*VIDEO_FIELDS)
    assert (after.video_head > counter) == changed("video_state")
    for name in MARKS:
        assert getattr(after, name) > counter or not changed(name)


def _check_stamped_anew(before: Job, after: Job, counter: int) -> None:
    """Check that every mark a job has is above what the counter was, and that nothing else of it has changed."""
    marks = {name: getattr(before, name) for name in MARKS}
    assert replace(after, **marks) == before
    for name, mark in marks.items():
        assert (getattr(after, name) > counter) == (mark > 0)
        assert getattr(after, name) >= mark


def _hour(job: Job) -> int:
    return job.partition_at // HOUR * HOUR


def _heads(jobs: Sequence[Job]) -> list[HourHead]:
    heads: dict[int, HourHead] = {}
    for job in jobs:
        if job.head or job.video_head:
            hour = heads.get(_hour(job), HourHead(hour_at=_hour(job), head=0, video_head=0))
            heads[_hour(job)] = replace(
                hour, head=max(hour.head, job.head), video_head=max(hour.video_head, job.video_head)
            )
    return [heads[hour_at] for hour_at in sorted(heads)]


def _due_video_hours(jobs: Sequence[Job], now: int) -> list[DueVideos]:
    expiries: dict[int, list[int]] = {}
    for job in jobs:
        if job.video_next_at is not None and job.video_expires_at is not None and job.video_next_at <= now:
            expiries.setdefault(_hour(job), []).append(job.video_expires_at)
    return [
        DueVideos(hour_at=hour_at, due=len(expiries[hour_at]), earliest_expiry=min(expiries[hour_at]))
        for hour_at in sorted(expiries)
    ]


def _counts(jobs: Sequence[Job], now: int) -> Counts:
    pending = [job for job in jobs if job.state == JobState.PENDING]
    return Counts(
        states=Counter(job.state for job in jobs),
        pending_statuses=Counter(status_label(job.status) for job in pending),
        videos=Counter(job.video_state for job in jobs if job.video_state is not None),
        oldest_pending_ms=max((now - job.watched_since for job in pending), default=None),
        due=sum(job.next_poll_at <= now for job in pending),
        overdue=sum(job.next_poll_at <= now - 600_000 for job in pending),
        before_first_partition=sum(job.partition_at < FIRST_PARTITION_AT for job in jobs),
        after_current_partition=sum(job.partition_at >= NEXT_PARTITION_AT for job in jobs),
        videos_waiting=sum(job.video_next_at is not None and job.video_next_at > now for job in jobs),
    )


def test_nothing_moves_back_and_every_number_adds_up(ledger: JobLedger, ledger_url: str) -> None:
    ledger.landings("other").land_anew(0, 2**53, above=10)  # another ledger's revisions may be there already

    class OnThisDatabase(LedgerMachine):
        url = ledger_url

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=thorough(25, 300),
            stateful_step_count=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
