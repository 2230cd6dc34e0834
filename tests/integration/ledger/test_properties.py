"""Conformance: whatever happens in whatever order, the ledger's invariants hold."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from akool_dagster.base.partitions import END_OF_TIME
from akool_dagster.ledger import (
    AccountLedger,
    Counts,
    Job,
    JobForgottenError,
    JobLedger,
    JobState,
    LeaseLostError,
    Missed,
    Observation,
    TrackRequest,
    Unanswered,
    Unreadable,
    VideoState,
)
from akool_dagster.ledger.adoption import FoundJob
from akool_dagster.ledger.records import DirtyPartition, DueVideos, VideoFailure, status_label
from akool_dagster.ledger.transitions import SHOWN_WHEN_POLLED
from tests.clock import FakeClock
from tests.integration.ledger.helpers import DAY, HOUR, NOW, POLLING, answered, object_id
from tests.thoroughness import thorough

pytest_plugins = ["tests.integration.ledger_databases"]

IDS = (object_id(NOW - DAY), object_id(NOW + HOUR), "Two", "_3")
"""Few, so that many things happen to the same job."""
ASSETS = ("results", "statuses")
FIRST_PARTITION_AT = NOW - 2 * HOUR
NEXT_PARTITION_AT = NOW + HOUR // 2
FINAL = (JobState.COMPLETED, JobState.FAILED)
FINAL_FIELDS = ("state", "status", "settled_at", "failure_reason", "tracked_at")
VIDEO_FIELDS = ("video_state", "video_record", "video_error", "video_attempts", "video_refusals", "video_expires_at")
VIDEO_RESULT = ("video_state", "video_record", "video_error", "video_attempts")
SHOWN = (*SHOWN_WHEN_POLLED, "labels", "tracked_at", *VIDEO_FIELDS)
SPECIAL = ("pruned", "forgotten", "adopted")

an_id = st.sampled_from(IDS)
some_ids = st.lists(an_id, min_size=1, max_size=4)
answers = st.builds(
    answered,
    an_id,
    st.sampled_from([1, 2, 2, 3, 3, 4, 7, None]),
    url=st.booleans(),
    payload=st.sampled_from(['{"n":1}', '{"n":2}']),
    reason=st.sampled_from([None, "no face found"]),
)
misses = st.builds(Missed, job_id=an_id, code=st.sampled_from([None, 1008]))
unreadables = st.builds(Unreadable, job_id=an_id, error=st.just("odd"))
unanswered = st.builds(Unanswered, job_id=an_id, error=st.just("HTTP 500"))
observations = st.lists(st.one_of(answers, answers, misses, misses, unreadables, unanswered), min_size=1, max_size=4)


class LedgerMachine(RuleBasedStateMachine):
    """Does what a deployment may do to a ledger, and compares it with what it was before and with a count by hand."""

    url: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.ledger = JobLedger.open(self.url, clock=self.clock)
        self.name = "a" + uuid.uuid4().hex  # one database serves every example
        self.counter = self.ledger.version()
        self.before: dict[str, Job] = {}
        self.claimed_until: dict[str, int] = {}
        self.asked: dict[int, tuple[int, int]] = {}
        self.landed: dict[tuple[int, str], int] = {}
        self.step = ""
        self.touched: set[str] = set()

    @property
    def account(self) -> AccountLedger:
        """Return the account of this example."""
        return self.ledger.account(self.name)

    def teardown(self) -> None:
        self.ledger.close()

    @rule(ids=some_ids, label=st.sampled_from(["", "spring", "autumn"]), again=st.booleans())
    def track(self, ids: Sequence[str], label: str, again: bool) -> None:
        requests = [TrackRequest(job_id=job_id, labels={"campaign": label} if label else {}) for job_id in ids]
        report = self.account.track(requests, again=again)
        new = set(ids) - self.before.keys()
        counted = (report.added, report.known, report.repeated)
        assert counted == (len(new), len(set(ids)) - len(new), len(ids) - len(set(ids)))
        self.step, self.touched = "again" if again else "track", set(ids)
        self.claimed_until = {
            job_id: until
            for job_id, until in self.claimed_until.items()
            if not again or self.before[job_id].state == JobState.PENDING
        }

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        now = self.clock.now_ms()
        due = [job for job in self.before.values() if job.state == JobState.PENDING and job.next_poll_at <= now]
        expected = sorted(due, key=lambda job: (job.next_poll_at, job.job_id))[:limit]
        claimed = self.account.polling.claim(limit)
        assert [(job.job_id, job.call_size, job.due_at) for job in claimed] == [
            (job.job_id, job.call_size, job.next_poll_at) for job in expected
        ]
        for job in claimed:
            assert self.claimed_until.get(job.job_id, 0) <= now
            self.claimed_until[job.job_id] = now + 120_000

    @rule(ids=some_ids)
    def release(self, ids: Sequence[str]) -> None:
        self.account.polling.release(dict.fromkeys(ids, self.clock.now_ms()))
        for job_id in ids:
            self.claimed_until.pop(job_id, None)

    @rule(ids=some_ids, size=st.integers(1, 49))
    def set_call_size(self, ids: Sequence[str], size: int) -> None:
        self.account.polling.set_call_size(ids, size)

    @rule(seen=observations)
    def record(self, seen: Sequence[Observation]) -> None:
        report = self.account.polling.record(seen, POLLING)
        settled = Counter(job.state for job in self.account.jobs()) - Counter(job.state for job in self.before.values())
        assert (report.completed, report.failed, report.missing, report.abandoned) == tuple(
            settled[state] for state in (*FINAL, JobState.MISSING, JobState.ABANDONED)
        )
        for one in seen:
            self.claimed_until.pop(one.job_id, None)
        last = {one.job_id: one for one in seen}
        for job in self.account.jobs():
            if isinstance(last.get(job.job_id), Unanswered):
                kept = self.before[job.job_id]
                assert (job.state, job.misses, job.call_size) == (kept.state, kept.misses, kept.call_size)

    @rule(job_id=an_id, url=st.sampled_from(["https://cdn.example/1", "https://cdn.example/2"]))
    def keep_url(self, job_id: str, url: str) -> None:
        known = self.before.get(job_id)
        is_first = known is not None and "video_url" not in (known.payload or "")
        self.account.videos.keep_url(job_id, url, self.clock.now_ms(), is_first=is_first)

    @rule(job_id=an_id)
    def store(self, job_id: str) -> None:
        self.settle_video(job_id, None)

    @rule(job_id=an_id, state=st.sampled_from(VideoState), refused=st.booleans(), counts=st.booleans())
    def fail(self, job_id: str, state: VideoState, refused: bool, counts: bool) -> None:
        state = VideoState.LOST if state == VideoState.STORED else state
        next_at = self.clock.now_ms() + 30_000 if state == VideoState.PENDING else None
        failure = VideoFailure(job_id=job_id, error="404", state=state, next_at=next_at, refused=refused, counts=counts)
        self.settle_video(job_id, failure)

    def settle_video(self, job_id: str, failure: VideoFailure | None) -> None:
        """Record what became of a video; a forgotten job's must be refused."""
        known = self.before.get(job_id)
        try:
            if failure is None:
                self.account.videos.store(job_id, {"path": job_id})
            else:
                self.account.videos.fail(failure)
            assert known is None or known.state != JobState.FORGOTTEN
        except JobForgottenError:
            assert known is not None
            assert known.state == JobState.FORGOTTEN

    @rule(ids=some_ids)
    def reopen_videos(self, ids: Sequence[str]) -> None:
        self.account.videos.reopen(ids)
        self.step, self.touched = "again", set(ids)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), asset=st.sampled_from([*ASSETS, "videos"]))
    def land(self, data: st.DataObject, asset: str) -> None:
        hour = data.draw(st.sampled_from(sorted(self.asked)))
        kind = "videos" if asset == "videos" else "tables"
        with self.account.leases.acquire(kind, str(hour), "run"):
            with self.account.landings.snapshot(hour, hour + HOUR) as shot:
                shown = [row[0] for batch in shot.batches(["job_id"], 2) for row in batch]
                assert (shot.tables_version, shot.videos_version) == self.asked[hour]
            assert shown == sorted(
                job.job_id
                for job in self.before.values()
                if _hour(job) == hour and not job.is_tombstone and job.state != JobState.FORGOTTEN
            )
            version = self.asked[hour][kind == "videos"]
            self.account.landings.record_landed(kind, str(hour), "run", hour, asset, version)
        self.landed[hour, asset] = version
        try:
            self.account.landings.record_landed(kind, str(hour), "run", hour, asset, 1)
            raise AssertionError("a landing without its lease was recorded")
        except LeaseLostError:
            pass

    @rule(ids=some_ids)
    def prune(self, ids: Sequence[str]) -> None:
        self.account.pruning.prune(ids, END_OF_TIME)
        self.step, self.touched = "pruned", set(ids)

    @rule(ids=some_ids)
    def forget(self, ids: Sequence[str]) -> None:
        self.account.pruning.forget(ids)
        assert self.account.landings.forgotten() >= set(ids)
        self.step, self.touched = "forgotten", set(ids)
        self.claimed_until = {job_id: at for job_id, at in self.claimed_until.items() if job_id not in self.touched}

    @precondition(lambda self: self.before)
    @rule(data=st.data(), end=st.sampled_from([None, 3, 4]), hours=st.integers(0, 3))
    def adopt(self, data: st.DataObject, end: int | None, hours: int) -> None:
        template = data.draw(st.sampled_from(sorted(self.before.values(), key=lambda job: job.job_id)))
        job_id = data.draw(an_id)
        told = _told(template, self.name, job_id, end, hours)
        start = told.partition_at - told.partition_at % HOUR
        self.account.adoption.adopt([FoundJob(job=told, start=start, end=start + HOUR, is_settled=told.is_tombstone)])
        (job,) = [job for job in self.account.jobs() if job.job_id == job_id]
        assert job.state == JobState.FORGOTTEN or start <= job.partition_at < start + HOUR
        before = self.before.get(job_id)
        if end is not None and (before is None or before.state not in (*FINAL, JobState.FORGOTTEN)):
            assert (job.state, job.payload, job.settled_at) == (told.state, told.payload, told.settled_at)
        self.step, self.touched = "adopted", {job_id}
        if job.state != JobState.PENDING:
            self.claimed_until.pop(job_id, None)

    @rule()
    def land_everything_again(self) -> None:
        self.account.adoption.land_everything_again()
        self.landed = dict.fromkeys(self.landed, 0)

    @rule()
    def reopen_the_ledger(self) -> None:
        self.ledger.close()
        self.ledger = JobLedger.create(self.url, clock=self.clock)

    @rule(seconds=st.sampled_from([1, 30, 120, 200, 3600, 2 * 86_400, 7 * 86_400]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @invariant()
    def everything_holds(self) -> None:
        account = self.account
        jobs = {job.job_id: job for job in account.jobs()}
        counter = self.ledger.version()
        assert list(jobs) == sorted(jobs)
        assert counter >= self.counter
        assert self.before.keys() <= jobs.keys()
        for job_id, job in jobs.items():
            _check_job(job, counter)
            if job_id not in self.before:
                assert job.version > self.counter
            elif job_id not in self.touched or self.step not in SPECIAL:
                _check_step(self.before[job_id], job, self.counter, self.step if job_id in self.touched else "")
            else:
                _check_special(self.before[job_id], job, self.counter, self.step)
        found = list(jobs.values())
        self._check_landings(found)
        now = self.clock.now_ms()
        assert account.counts(FIRST_PARTITION_AT, NEXT_PARTITION_AT) == _counts(found, now)
        assert account.videos.due_hours() == _due_hours(found, now)
        assert {rule.rule: rule.example for rule in account.inspection.broken_rules()} == {}
        self.before, self.counter, self.step, self.touched = jobs, counter, "", set()

    def _check_landings(self, jobs: Sequence[Job]) -> None:
        """Check which versions ask for a landing, and that what is dirty is what has not landed."""
        asked = {
            one.partition_at: (one.tables_version, one.videos_version)
            for one in self.account.landings.dirty(HOUR, ["never landed"], videos=True)
        }
        hours = {
            hour: (max(now[0], was[0]), max(now[1], was[1]))
            for hour in asked.keys() | self.asked.keys()
            for now, was in [(asked.get(hour, (0, 0)), self.asked.get(hour, (0, 0)))]
        }
        if self.step not in SPECIAL:
            steps = [(self.before[job.job_id], job) for job in jobs if job.job_id in self.before]
            for place, asks in enumerate((_asks_for_tables, _asks_for_videos)):
                rose = {hour: found[place] for hour, found in hours.items() if found[place] > self.counter}
                assert rose == {_hour(job): job.version for before, job in steps if asks(before, job)}
        assert self.account.landings.landed(0) == self.landed
        self.asked = hours
        assert self.account.landings.dirty(HOUR, ASSETS, videos=True) == _dirty(hours, self.landed)


def _told(job: Job, account: str, job_id: str, end: int | None, hours: int) -> Job:
    """Return what a table could tell of a job: not ended, or with an end whose payload is rebuilt or is not."""
    at = NOW - NOW % HOUR - hours * HOUR
    told = replace(
        job,
        account=account,
        job_id=job_id,
        partition_at=at,
        labels='{"from":"table"}',
        state=JobState.PENDING,
        status=2,
        settled_at=None,
        failure_reason=None,
        payload=None,
        next_poll_at=NOW,
        video_state=None,
        video_next_at=None,
        video_record=None,
    )
    if end == 4:
        return replace(told, state=JobState.FAILED, status=4, settled_at=NOW - HOUR, payload='{"rebuilt":1}')
    if end == 3:
        stored = VideoState.STORED
        return replace(told, state=JobState.COMPLETED, status=3, settled_at=NOW - HOUR, video_state=stored)
    return told


def _check_job(job: Job, counter: int) -> None:
    assert 0 <= job.version <= counter
    assert (job.settled_at is not None) == (job.state in FINAL)
    assert (job.video_state is not None) == (job.state == JobState.COMPLETED)
    assert (job.video_state == VideoState.PENDING) == (job.video_next_at is not None)
    assert job.state != JobState.FORGOTTEN or (job.payload, job.labels, job.status) == (None, "{}", None)


def _check_step(before: Job, after: Job, counter: int, step: str) -> None:
    """Check one step of one job: ``counter`` is what the ledger's version was before the step."""

    def changed(*names: str) -> bool:
        return any(getattr(before, name) != getattr(after, name) for name in names)

    assert not changed("partition_at", "tracked_at")
    if before.state in FINAL:
        assert not changed(*FINAL_FIELDS)
        assert before.payload == after.payload or before.state == JobState.COMPLETED
    if before.is_tombstone or before.state == JobState.FORGOTTEN:
        assert not changed(*SHOWN, "payload", "version")
    if before.video_state in (VideoState.STORED, VideoState.LOST, VideoState.UNVERIFIED):
        assert not changed(*VIDEO_RESULT) or (step == "again" and after.video_state == VideoState.PENDING)
    new_url = before.state == after.state == JobState.COMPLETED and changed("payload")
    assert (after.version > counter) == (new_url or changed(*SHOWN))
    assert after.version > counter or not changed("version")


def _asks_for_tables(before: Job, after: Job) -> bool:
    return (before.state, before.labels) != (after.state, after.labels) or _has_first_url(before, after)


def _asks_for_videos(before: Job, after: Job) -> bool:
    return before.video_state != after.video_state or _has_first_url(before, after)


def _has_first_url(before: Job, after: Job) -> bool:
    completed = before.state == after.state == JobState.COMPLETED
    return completed and before.payload != after.payload and "video_url" not in (before.payload or "")


def _check_special(before: Job, after: Job, counter: int, step: str) -> None:
    """Check the steps after which a job may show less, or more, than it did."""
    if step == "pruned" and after != before:
        assert after.is_tombstone
        assert before.video_state in (None, VideoState.STORED, VideoState.LOST)
        kept = ("state", "settled_at", "video_state", "partition_at")
        assert [getattr(before, name) for name in kept] == [getattr(after, name) for name in kept]
    if step == "forgotten":
        assert after.state == JobState.FORGOTTEN
        assert after.version > counter
    if step == "adopted":
        assert before.state != JobState.FORGOTTEN or after == before
        assert before.state not in FINAL or after.state == before.state
        assert (after.version > counter) == (after != before)


def _hour(job: Job) -> int:
    return job.partition_at // HOUR * HOUR


def _dirty(asked: Mapping[int, tuple[int, int]], landed: Mapping[tuple[int, str], int]) -> list[DirtyPartition]:
    found = []
    for hour, (tables, videos) in sorted(asked.items()):
        one = DirtyPartition(
            partition_at=hour,
            tables_version=tables if tables > min(landed.get((hour, asset), 0) for asset in ASSETS) else 0,
            videos_version=videos if videos > landed.get((hour, "videos"), 0) else 0,
        )
        if one.tables_version or one.videos_version:
            found.append(one)
    return found


def _due_hours(jobs: Sequence[Job], now: int) -> list[DueVideos]:
    expiries: dict[int, list[int]] = {}
    for job in jobs:
        if job.video_next_at is not None and job.video_expires_at is not None and job.video_next_at <= now:
            expiries.setdefault(_hour(job), []).append(job.video_expires_at)
    return [DueVideos(hour_at=at, due=len(found), earliest_expiry=min(found)) for at, found in sorted(expiries.items())]


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


def test_nothing_moves_back_and_every_number_adds_up(ledger_url: str) -> None:
    class OnThisDatabase(LedgerMachine):
        url = ledger_url

    run_state_machine_as_test(
        OnThisDatabase,
        settings=settings(
            max_examples=thorough(10 if ledger_url.startswith("postgresql") else 25, 300),
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
