from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.clock import Deadline
from akool_dagster.ledger import (
    ClaimedJob,
    Job,
    JobLedger,
    JobState,
    Missed,
    Observation,
    RecordReport,
    TrackRequest,
)
from akool_dagster.polling import (
    DEFAULT_IDS_PER_REQUEST,
    LONGEST_LOOK_MS,
    SHORTEST_LOOK_MS,
    PollReport,
    ResultsApi,
    look_again_ms,
    run_poll_pass,
)
from tests.clock import FakeClock
from tests.scripted_api import ScriptedApi, job_id, refusal, row

ACCOUNT = "akool"


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def poll(ledger: JobLedger, clock: FakeClock) -> Callable[..., PollReport]:
    def poll(api: ResultsApi, *, seconds: float = 45.0, ids_per_request: int = DEFAULT_IDS_PER_REQUEST) -> PollReport:
        return run_poll_pass(
            ledger, api, ACCOUNT, clock=clock, deadline=Deadline(clock, seconds), ids_per_request=ids_per_request
        )

    return poll


def track(ledger: JobLedger, ids: Sequence[str]) -> None:
    ledger.track(ACCOUNT, [TrackRequest(job_id=identifier) for identifier in ids])


def jobs(ledger: JobLedger) -> dict[str, Job]:
    return {job.job_id: job for job in ledger.iter_jobs(ACCOUNT)}


def states(ledger: JobLedger) -> Counter[str]:
    return Counter(job.state for job in jobs(ledger).values())


Poll = Callable[..., PollReport]

# When to look again

ages = st.integers(min_value=-(10**13), max_value=10**13)


@given(ages)
def test_the_wait_stays_between_five_seconds_and_ten_minutes(age_ms: int) -> None:
    assert SHORTEST_LOOK_MS <= look_again_ms(age_ms) <= LONGEST_LOOK_MS
    assert (SHORTEST_LOOK_MS, LONGEST_LOOK_MS) == (5_000, 600_000)


@given(ages, ages)
def test_an_older_job_never_waits_less(one: int, other: int) -> None:
    assert look_again_ms(min(one, other)) <= look_again_ms(max(one, other))


@given(st.integers(min_value=25_000, max_value=3_000_000))
def test_between_the_bounds_the_wait_is_a_fifth_of_the_age(age_ms: int) -> None:
    assert abs(look_again_ms(age_ms) - age_ms / 5) < 1


def test_a_day_of_watching_costs_fewer_than_two_hundred_looks() -> None:
    age = looks = 0
    while age < 86_400_000:
        age += look_again_ms(age)
        looks += 1
    assert 150 < looks < 200


# Calls


@pytest.mark.parametrize(
    ("number", "ids_per_request"), [(0, 50), (1, 50), (50, 50), (51, 50), (120, 50), (7, 1), (9, 4)]
)
def test_a_pass_makes_exactly_as_many_calls_as_the_ids_fill(
    ledger: JobLedger, poll: Poll, number: int, ids_per_request: int
) -> None:
    ids = [job_id(n) for n in range(number)]
    track(ledger, ids)
    api = ScriptedApi({identifier: row(identifier) for identifier in ids})

    report = poll(api, ids_per_request=ids_per_request)

    assert report.calls == api.calls == ceil(number / ids_per_request)
    assert report.polled == report.recorded.completed == number
    assert report.stopped is None
    assert sorted(identifier for call in api.asked for identifier in call) == ids
    assert all(len(call) <= ids_per_request for call in api.asked)


def test_a_pass_needs_at_least_one_id_a_call(poll: Poll) -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        poll(ScriptedApi({}), ids_per_request=0)


def test_what_is_due_longest_is_asked_first(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    late, early = [job_id(n) for n in (1, 2)], [job_id(n) for n in (8, 9)]
    track(ledger, early)
    clock.advance(60)
    track(ledger, late)
    api = ScriptedApi({identifier: row(identifier) for identifier in [*late, *early]})

    poll(api, ids_per_request=2)

    assert api.asked == [tuple(early), tuple(late)]


def test_what_is_not_due_is_not_asked(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    track(ledger, [job_id(1)])
    api = ScriptedApi({job_id(1): row(job_id(1), status=1)})
    poll(api)
    assert poll(api).calls == 0
    due_at = jobs(ledger)[job_id(1)].next_poll_at
    clock.advance((due_at - clock.now_ms()) / 1000)
    assert poll(api).calls == 1


def test_another_account_is_left_alone(ledger: JobLedger, poll: Poll) -> None:
    ledger.track("other", [TrackRequest(job_id=job_id(1))])
    assert poll(ScriptedApi({job_id(1): row(job_id(1))})).polled == 0


# Answers


def test_rows_are_matched_by_id_and_not_by_position(ledger: JobLedger, poll: Poll) -> None:
    ids = [job_id(n) for n in range(6)]
    track(ledger, ids)
    told = {0: 1, 1: 2, 2: 3, 3: 4, 4: 77}  # number five is not returned

    poll(ScriptedApi({ids[n]: row(ids[n], status=status, prompt=f"prompt {n}") for n, status in told.items()}))

    found = jobs(ledger)
    assert {n: found[ids[n]].status for n in range(6)} == {**told, 5: None}
    assert [found[identifier].state for identifier in ids] == [
        JobState.PENDING,
        JobState.PENDING,
        JobState.COMPLETED,
        JobState.FAILED,
        JobState.PENDING,
        JobState.PENDING,
    ]
    assert all(f"prompt {n}" in (found[ids[n]].payload or "") for n in told)


def test_rows_that_nobody_asked_for_are_not_recorded(ledger: JobLedger, poll: Poll) -> None:
    track(ledger, [job_id(1)])
    poll(ScriptedApi({}))  # answers with a completed row of another id
    assert states(ledger) == {JobState.PENDING: 1}
    assert list(jobs(ledger)) == [job_id(1)]


def test_a_missing_row_is_not_a_finished_job(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    track(ledger, [job_id(1)])
    api = ScriptedApi({})
    for _ in range(4):
        report = poll(api)
        assert report.polled == 1
        assert report.recorded.missing == 0
        clock.advance(600)
    assert jobs(ledger)[job_id(1)].misses == 4
    assert poll(api).recorded.missing == 1
    assert states(ledger) == {JobState.MISSING: 1}


def test_a_row_that_comes_back_ends_the_misses(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    track(ledger, [job_id(1)])
    poll(ScriptedApi({}))
    clock.advance(600)
    poll(ScriptedApi({job_id(1): row(job_id(1), status=2)}))
    job = jobs(ledger)[job_id(1)]
    assert (job.misses, job.first_missed_at, job.status) == (0, None, 2)


def test_a_completed_row_without_an_address_is_looked_at_again(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    track(ledger, [job_id(1)])
    empty = ScriptedApi({job_id(1): row(job_id(1), video_url="")})
    for _ in range(5):
        assert poll(empty).recorded.completed == 0
        clock.advance(600)
    assert poll(ScriptedApi({job_id(1): row(job_id(1))})).recorded.completed == 1
    assert jobs(ledger)[job_id(1)].video_state == "pending"


def test_a_row_that_cannot_be_read_leaves_its_job_pending_and_the_rest_recorded(ledger: JobLedger, poll: Poll) -> None:
    ids = [job_id(n) for n in range(3)]
    track(ledger, ids)
    rows = {identifier: row(identifier) for identifier in ids} | {ids[1]: row(ids[1], status={"odd": 1})}

    report = poll(ScriptedApi(rows))

    assert (report.recorded.completed, report.unreadable, report.calls) == (2, 1, 1)
    odd = jobs(ledger)[ids[1]]
    assert odd.state == JobState.PENDING
    assert "status" in (odd.last_error or "")


# One bad id


def test_one_poison_id_among_fifty_is_isolated_and_the_others_are_recorded(ledger: JobLedger, poll: Poll) -> None:
    ids = [job_id(n) for n in range(50)]
    track(ledger, ids)
    bad = ids[17]
    api = ScriptedApi({identifier: row(identifier) for identifier in ids}, poison={bad: refusal(1014)})

    report = poll(api)

    assert report.recorded.completed == 49
    assert report.stopped is None
    assert api.calls <= 1 + 2 * 6  # one call, then two halves at each of six levels at most
    job = jobs(ledger)[bad]
    assert (job.state, job.misses, job.last_code, job.poll_alone) == (JobState.PENDING, 1, 1014, True)


class _MemoryLedger:
    """The methods that a pass uses, for one claim of ids: a file would only slow a property down."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.waiting = [ClaimedJob(job_id=identifier, poll_alone=False) for identifier in ids]
        self.recorded: list[Observation] = []
        self.released: list[str] = []

    def mend_schedule(self, account: str) -> None:
        pass

    def poll_not_before(self, account: str) -> int:
        return 0

    def claim(self, account: str, limit: int) -> list[ClaimedJob]:
        claimed, self.waiting = self.waiting, []
        return claimed

    def record(self, account: str, seen: Sequence[Observation], schedule: object) -> RecordReport:
        self.recorded.extend(seen)
        return RecordReport()

    def release(self, account: str, ids: Sequence[str], *, until: int) -> None:
        self.released.extend(ids)


@given(st.sets(st.integers(min_value=0, max_value=19), max_size=19))
def test_the_halving_finds_exactly_the_poison_ids(bad: set[int]) -> None:
    ids = [job_id(n) for n in range(20)]
    poison = {ids[n]: refusal() for n in bad}
    api = ScriptedApi({identifier: row(identifier) for identifier in ids}, poison=poison)
    ledger, clock = _MemoryLedger(ids), FakeClock()

    run_poll_pass(ledger, api, ACCOUNT, clock=clock, deadline=Deadline(clock, 45))  # type: ignore[arg-type]

    assert {one.job_id for one in ledger.recorded if isinstance(one, Missed) and one.alone} == set(poison)
    assert sorted(one.job_id for one in ledger.recorded) == ids
    assert ledger.released == []
    assert api.calls <= 1 + len(bad) * 2 * 5


def test_a_poison_id_is_polled_alone_afterwards(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    ids = [job_id(n) for n in range(10)]
    track(ledger, ids)
    poll(ScriptedApi({identifier: row(identifier, status=2) for identifier in ids}, poison={ids[3]: refusal()}))
    clock.advance(3600)
    again = ScriptedApi({identifier: row(identifier) for identifier in ids}, poison={ids[3]: refusal()})

    report = poll(again)

    assert again.calls == 2
    assert sorted(again.asked, key=len) == [(ids[3],), tuple(identifier for identifier in ids if identifier != ids[3])]
    assert report.recorded.completed == 9
    assert jobs(ledger)[ids[3]].misses == 2


def test_ids_that_are_polled_alone_do_not_stop_each_other(ledger: JobLedger, poll: Poll, clock: FakeClock) -> None:
    ids = [job_id(n) for n in range(8)]
    track(ledger, ids)
    poison = {identifier: refusal() for identifier in ids[:4]}
    rows = {identifier: row(identifier, status=2) for identifier in ids}
    for polls in range(1, 6):
        poll(ScriptedApi(rows, poison=poison))
        assert {job.polls for job in jobs(ledger).values()} == {polls}
        clock.advance(600)
    assert states(ledger) == {JobState.PENDING: 4, JobState.MISSING: 4}
