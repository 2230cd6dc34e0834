from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger.records import LEASE_MS, LandingKind, LeaseFacts
from akool_dagster.planning.decisions import (
    LONGEST_WAIT_MS,
    REQUESTS_PER_TICK,
    RUN_START_MS,
    Decision,
    PartitionState,
    RunFacts,
    RunStage,
    choose,
    decide,
    start_allowance_ms,
)

NOW = 1_760_000_000_000
INTERVAL_MS = 60_000
TABLES = PartitionState(kind=LandingKind.TABLES, key="2025-10-09", version=7)
VIDEOS = PartitionState(kind=LandingKind.VIDEOS, key="2025-10-09", version=7, due=3, earliest_expiry=NOW + 1)
STATES = pytest.mark.parametrize("state", [TABLES, VIDEOS], ids=["tables", "videos"])


def run(
    run_id: str = "run-1",
    stage: RunStage = RunStage.SUCCEEDED,
    *,
    created: float = 3600,
    launched: float | None = None,
    started: float | None = None,
    ended: float | None = None,
) -> RunFacts:
    """Return a run; the times are how many seconds ago it was."""

    def ago(seconds: float) -> int:
        return NOW - int(seconds * 1000)

    return RunFacts(
        run_id=run_id,
        stage=stage,
        created_at=ago(created),
        launched_at=ago(next(time for time in (started, launched, created) if time is not None)),
        started_at=None if started is None else ago(started),
        ended_at=None if ended is None else ago(ended),
    )


def ended_run(run_id: str = "run-1", stage: RunStage = RunStage.SUCCEEDED, *, ago: float, took: float = 1) -> RunFacts:
    return run(run_id, stage, created=ago + took, started=ago + took, ended=ago)


def failures(number: int, ago: float) -> list[RunFacts]:
    return [ended_run(f"run-{9 - n}", RunStage.FAILED, ago=ago + 10_000 * n) for n in range(number)]


def launched(seconds: float, **times: float) -> RunFacts:
    return run("run-1", RunStage.UNFINISHED, created=9000, launched=seconds, **times)


def lease(owner: str, expires_at: int = 0) -> LeaseFacts:
    return LeaseFacts(owner=owner, expires_at=expires_at)


def waits(
    state: PartitionState,
    runs: list[RunFacts],
    lease: LeaseFacts | None = None,
    now: int = NOW,
    *,
    interval_ms: int = INTERVAL_MS,
    start_ms: int = RUN_START_MS,
) -> str | None:
    """Return why a partition waits; None when a run is asked for."""
    decision = decide(state, runs, lease, now, interval_ms=interval_ms, start_ms=start_ms)
    assert decision.state is state
    return decision.reason_to_wait


FAILED = RunStage.FAILED
HISTORIES: dict[str, tuple[list[RunFacts], LeaseFacts | None, str | None]] = {
    "no run": ([], None, None),
    "a live lease": ([], lease("backfill", NOW + 1), "run backfill is landing it"),
    "the longest lease": ([], lease("backfill", NOW + 2 * LEASE_MS), "run backfill is landing it"),
    "a lease that ran out": ([], lease("backfill", NOW), None),
    "a lease of a wrong clock": ([], lease("backfill", NOW + 2 * LEASE_MS + 1), None),
    "a queued run": ([run("run-9", RunStage.QUEUED, created=1)], None, "run run-9 is queued"),
    "a run that queues for a day": ([run("run-9", RunStage.QUEUED, created=86_400)], None, "run run-9 is queued"),
    "an older queued run": ([ended_run(ago=600), run("run-9", RunStage.QUEUED)], None, "run run-9 is queued"),
    "a launched run": ([launched(0)], None, "run run-1 is starting: 60 s left"),
    "a launched run, later": ([launched(59)], None, "run run-1 is starting: 1 s left"),
    "a launched run that never came": ([launched(60)], None, None),
    "a launched run, and the clock set back": ([launched(-60)], None, None),
    "a killed run": ([launched(50, started=40)], lease("run-1", NOW - 1), None),
    "a starting run after another's lease": (
        [launched(50, started=40)],
        lease("another", NOW - 1),
        "run run-1 is starting: 20 s left",
    ),
    "a killed run whose lease a newer one took": (
        [ended_run("run-2", ago=60), launched(59, started=59)],
        lease("run-2"),
        None,
    ),
    "a run that gave its lease back": ([launched(25, started=20)], lease("run-1"), "asked again in 40 s"),
    "a success a moment ago": ([ended_run(ago=20)], None, "asked again in 40 s"),
    "a success a minute ago": ([ended_run(ago=60)], None, None),
    "a failure a moment ago": ([ended_run(stage=FAILED, ago=59.5)], None, "asked again in 0 s, after 1 failed run"),
    "a failure a minute ago": ([ended_run(stage=FAILED, ago=60)], None, None),
    "failures before a success": ([*failures(1, 61), ended_run("run-5", ago=11_000), *failures(5, 12_000)], None, None),
    "an end in the future, and the clock set back": ([ended_run(ago=-86_400)], None, None),
}


@STATES
@pytest.mark.parametrize("history", HISTORIES)
def test_a_partition_waits_for_runs_that_may_be_alive_and_a_minute_after_the_last(
    state: PartitionState, history: str
) -> None:
    runs, last_lease, reason = HISTORIES[history]
    assert waits(state, runs, last_lease) == reason


@pytest.mark.parametrize(("slowest", "allowed"), [(0, 60), (30, 60), (31, 62), (600, 1200), (7200, 3600)])
def test_a_run_has_twice_the_slowest_start_of_late_and_at_least_a_minute(slowest: int, allowed: int) -> None:
    assert start_allowance_ms(slowest * 1000) == allowed * 1000


@STATES
def test_a_deployment_may_choose_the_interval_and_the_time_to_start(state: PartitionState) -> None:
    assert waits(state, [launched(100)], start_ms=100_001)
    assert not waits(state, [launched(100)], start_ms=100_000)
    assert waits(state, [ended_run(ago=20)], interval_ms=20_001)
    assert not waits(state, [ended_run(ago=20)], interval_ms=20_000)


def test_tables_are_left_alone_ten_times_as_long_as_their_last_successful_run_took() -> None:
    assert waits(TABLES, [ended_run(ago=399, took=40)])
    assert not waits(TABLES, [ended_run(ago=400, took=40)])
    assert not waits(TABLES, [ended_run("run-2", ago=61), ended_run("run-1", ago=300, took=3000)])
    failed = ended_run("run-2", FAILED, ago=61, took=3000)
    assert not waits(TABLES, [failed])
    assert waits(TABLES, [failed, ended_run("run-1", ago=300, took=40)])
    assert not waits(TABLES, [ended_run(ago=3600, took=4000)])


def test_a_long_run_of_videos_goes_on_after_a_minute() -> None:
    assert waits(VIDEOS, [ended_run(ago=59, took=300)])
    assert not waits(VIDEOS, [ended_run(ago=60, took=300)])


@STATES
@pytest.mark.parametrize(("number", "wait"), [(1, 60), (2, 240), (3, 480), (4, 960), (5, 1920), (6, 3600), (8, 3600)])
def test_the_wait_grows_with_the_failures_in_a_row_up_to_an_hour(
    state: PartitionState, number: int, wait: float
) -> None:
    words = f"asked again in 1 s, after {number} failed run{'s' * (number > 1)}"
    assert waits(state, failures(number, wait - 1)) == words
    assert not waits(state, failures(number, wait))


@STATES
@pytest.mark.parametrize("stage", [RunStage.UNFINISHED, RunStage.DIED])
def test_dead_runs_between_failures_do_not_forgive_them(state: PartitionState, stage: RunStage) -> None:
    first, second = failures(2, 200)
    assert waits(state, [first, run("run-k", stage, created=5000), second])


# After everything was killed


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[RunFacts], LeaseFacts | None]:
    """Give what Dagster and the ledger show when everything was killed at `NOW`: runs, newest first, and the lease."""
    runs, last_lease, ago = [], None, 0
    for number in range(draw(st.integers(0, 8))):
        ago += draw(st.integers(0, 300))
        stage = draw(st.sampled_from([stage for stage in RunStage if stage != RunStage.QUEUED]))
        lived = draw(st.integers(0, ago))
        launched, started = (draw(st.integers(ago - lived, ago)) for _ in range(2))
        is_ended = stage != RunStage.UNFINISHED
        has_started = draw(st.booleans())
        one = run(
            f"run-{number}",
            stage,
            created=ago,
            launched=launched,
            started=min(launched, started) if has_started else None,
            ended=ago - lived if is_ended else None,
        )
        runs.append(one)
        if last_lease is None and has_started and draw(st.booleans()):
            ran_out = NOW + draw(st.integers(-3600, LEASE_MS // 1000)) * 1000
            last_lease = lease(one.run_id, 0 if is_ended else draw(st.sampled_from([0, ran_out])))
    return runs, last_lease


@given(histories(), st.sampled_from([TABLES, VIDEOS]), st.integers(0, 100_000))
def test_two_minutes_after_everything_was_killed_the_dead_runs_change_nothing(
    history: tuple[list[RunFacts], LeaseFacts | None], state: PartitionState, downtime: int
) -> None:
    runs, last_lease = history
    then = NOW + downtime * 1000 + 120_000
    released_by = last_lease.owner if last_lease is not None and last_lease.was_released else None
    ended = [
        one
        for one in runs
        if one.stage in (RunStage.SUCCEEDED, RunStage.FAILED)
        or (one.stage == RunStage.UNFINISHED and one.run_id == released_by)
    ]
    reason = waits(state, runs, last_lease, then)
    assert reason == waits(state, ended, last_lease, then)
    assert ended or reason is None


@given(histories(), st.sampled_from([TABLES, VIDEOS]))
def test_a_partition_is_asked_for_after_the_interval_and_within_an_hour_and_a_start(
    history: tuple[list[RunFacts], LeaseFacts | None], state: PartitionState
) -> None:
    runs, last_lease = history
    assert waits(state, [ended_run("newest", ago=INTERVAL_MS / 1000 - 1), *runs], last_lease)
    assert not waits(state, runs, last_lease, NOW + LONGEST_WAIT_MS + RUN_START_MS)


# Which of them this tick


def wanted(kind: LandingKind, key: str, **state: int) -> Decision:
    return Decision(state=PartitionState(kind=kind, key=key, **state))


def keys(decisions: list[Decision], limit: int = REQUESTS_PER_TICK) -> list[str]:
    return [state.key for state in choose(decisions, limit)]


def test_the_first_video_to_expire_and_the_oldest_tables_come_first_in_turns() -> None:
    decisions = [
        wanted(LandingKind.VIDEOS, "no expiry"),
        wanted(LandingKind.VIDEOS, "late", earliest_expiry=300),
        wanted(LandingKind.VIDEOS, "early", earliest_expiry=100),
        wanted(LandingKind.TABLES, "new", version=30),
        wanted(LandingKind.TABLES, "old", version=10),
    ]
    asked_before = [replace(one, last_asked_at=number) for number, one in enumerate(reversed(decisions))]
    assert keys(asked_before) == ["early", "old", "late", "new", "no expiry"]
    assert keys(asked_before, limit=2) == ["early", "old"]
    assert keys(asked_before, limit=0) == []
    assert keys([replace(one, reason_to_wait="it is queued") for one in decisions[:4]] + decisions[4:]) == ["old"]


def test_a_tick_asks_for_twenty_at_most_of_both_kinds() -> None:
    decisions = [wanted(LandingKind.VIDEOS, f"videos-{n}", version=n, earliest_expiry=n) for n in range(50)]
    decisions += [wanted(LandingKind.TABLES, f"tables-{n}", version=n) for n in range(50)]
    chosen = choose(decisions)
    assert len(chosen) == REQUESTS_PER_TICK == 20
    assert {state.version for state in chosen} == set(range(10))


def test_many_partitions_whose_videos_never_come_do_not_keep_another_waiting() -> None:
    expiries = {**{f"dead {number}": number for number in range(100)}, "healthy": 100}
    asked_at = {key: 0 for key in expiries if key != "healthy"}
    for tick in range(1, 12):
        decisions = [
            replace(wanted(LandingKind.VIDEOS, key, earliest_expiry=expiry), last_asked_at=asked_at.get(key, 0))
            for key, expiry in expiries.items()
        ]
        chosen = keys(decisions)
        assert chosen[0] == "dead 0"  # the first to expire
        asked_at |= dict.fromkeys(chosen, tick)
    assert "healthy" in asked_at


def test_a_decision_knows_when_its_partition_was_asked_for_last() -> None:
    last = ended_run(ago=600)
    decided = decide(VIDEOS, [last, ended_run("before", ago=900)], None, NOW, interval_ms=1, start_ms=1)
    assert decided.last_asked_at == last.created_at
