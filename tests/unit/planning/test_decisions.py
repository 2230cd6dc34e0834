from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger.records import LEASE_MS, LandingKind, LeaseFacts
from akool_dagster.planning.decisions import (
    LANDING_INTERVAL_MS,
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


def asked(
    state: PartitionState, runs: list[RunFacts], lease: LeaseFacts | None = None, now: int = NOW
) -> tuple[bool, str]:
    decision = decide(state, runs, lease, now)
    assert decision.state is state
    return decision.request, decision.reason


# In flight


@STATES
def test_a_dirty_partition_without_any_run_is_asked_for(state: PartitionState) -> None:
    assert asked(state, []) == (True, "3 videos due" if state.due else "new results")


@STATES
@pytest.mark.parametrize(
    ("expires_at", "is_live"),
    [(0, False), (NOW, False), (NOW + 1, True), (NOW + 2 * LEASE_MS, True), (NOW + 2 * LEASE_MS + 1, False)],
)
def test_a_live_lease_means_that_a_run_is_landing_it(state: PartitionState, expires_at: int, is_live: bool) -> None:
    lease = LeaseFacts(owner="backfill-run", expires_at=expires_at)
    assert asked(state, [], lease)[0] is not is_live
    if is_live:
        assert asked(state, [], lease)[1] == "run backfill-run is landing it"


@STATES
@pytest.mark.parametrize("created", [1, 900, 86_400])
def test_a_queued_run_is_waited_for_however_long_it_queues(state: PartitionState, created: float) -> None:
    queued = run("run-9", RunStage.QUEUED, created=created)
    assert asked(state, [queued]) == (False, "run run-9 is queued")
    assert asked(state, [ended_run("run-10", ago=600), queued]) == (False, "run run-9 is queued")


@STATES
def test_a_launched_run_has_a_minute_to_get_its_lease(state: PartitionState) -> None:
    def starting(seconds: float) -> list[RunFacts]:
        return [run("run-1", RunStage.UNFINISHED, created=9000, launched=seconds)]

    assert asked(state, starting(0)) == (False, "run run-1 is starting: 60 s left")
    assert asked(state, starting(59)) == (False, "run run-1 is starting: 1 s left")
    assert asked(state, starting(60))[0]
    assert asked(state, starting(-60))[0]  # the clock was set back


@pytest.mark.parametrize(("slowest", "allowed"), [(0, 60), (30, 60), (31, 62), (600, 1200), (7200, 3600)])
def test_a_run_has_twice_the_slowest_start_of_late_and_at_least_a_minute(slowest: int, allowed: int) -> None:
    assert start_allowance_ms(slowest * 1000) == allowed * 1000


@STATES
def test_a_deployment_may_allow_a_run_another_time_to_start(state: PartitionState) -> None:
    starting = [run("run-1", RunStage.UNFINISHED, created=100)]
    assert not decide(state, starting, None, NOW, start_ms=100_001).request
    assert decide(state, starting, None, NOW, start_ms=100_000).request


@STATES
def test_an_unfinished_run_whose_lease_ran_out_is_dead_at_once(state: PartitionState) -> None:
    killed = run("run-1", RunStage.UNFINISHED, created=50, started=40)
    assert asked(state, [killed], LeaseFacts(owner="run-1", expires_at=NOW - 1))[0]
    assert not asked(state, [killed], LeaseFacts(owner="another", expires_at=NOW - 1))[0]


@STATES
def test_a_killed_run_is_dead_too_when_a_newer_run_took_its_lease(state: PartitionState) -> None:
    runs = [ended_run("run-2", ago=60), run("run-1", RunStage.UNFINISHED, created=59, started=59)]
    assert asked(state, runs, LeaseFacts(owner="run-2", expires_at=0))[0]


@STATES
def test_a_run_that_gave_its_lease_back_counts_as_ended(state: PartitionState) -> None:
    runs = [run("run-1", RunStage.UNFINISHED, created=25, started=20)]
    assert asked(state, runs, LeaseFacts(owner="run-1", expires_at=0)) == (False, "asked again in 40 s")


# Not too often


@STATES
@pytest.mark.parametrize(("stage", "why"), [(RunStage.SUCCEEDED, ""), (RunStage.FAILED, ", after 1 failed run")])
def test_a_partition_is_left_alone_for_a_minute_after_its_last_run(
    state: PartitionState, stage: RunStage, why: str
) -> None:
    assert asked(state, [ended_run(stage=stage, ago=59.5)]) == (False, f"asked again in 0 s{why}")
    assert asked(state, [ended_run(stage=stage, ago=20)]) == (False, f"asked again in 40 s{why}")
    assert asked(state, [ended_run(stage=stage, ago=60)])[0]


@STATES
def test_a_deployment_may_choose_another_interval(state: PartitionState) -> None:
    runs = [ended_run(ago=20)]
    assert decide(state, runs, None, NOW, interval_ms=20_000).request
    assert not decide(state, runs, None, NOW, interval_ms=20_001).request


def test_tables_are_left_alone_ten_times_as_long_as_their_last_successful_run_took() -> None:
    assert not asked(TABLES, [ended_run(ago=399, took=40)])[0]
    assert asked(TABLES, [ended_run(ago=400, took=40)])[0]
    assert asked(TABLES, [ended_run("run-2", ago=61), ended_run("run-1", ago=300, took=3000)])[0]
    failed = ended_run("run-2", RunStage.FAILED, ago=61, took=3000)
    assert asked(TABLES, [failed])[0]
    assert not asked(TABLES, [failed, ended_run("run-1", ago=300, took=40)])[0]
    assert asked(TABLES, [ended_run(ago=3600, took=4000)])[0]


def test_a_long_run_of_videos_goes_on_after_a_minute() -> None:
    assert not asked(VIDEOS, [ended_run(ago=59, took=300)])[0]
    assert asked(VIDEOS, [ended_run(ago=60, took=300)])[0]


@STATES
@pytest.mark.parametrize(("number", "wait"), [(1, 60), (2, 240), (3, 480), (4, 960), (5, 1920), (6, 3600), (8, 3600)])
def test_the_wait_grows_with_the_failures_in_a_row_up_to_an_hour(
    state: PartitionState, number: int, wait: float
) -> None:
    assert asked(state, failures(number, wait - 1)) == (
        False,
        f"asked again in 1 s, after {number} failed run{'s' * (number > 1)}",
    )
    assert asked(state, failures(number, wait))[0]


@STATES
def test_a_success_forgives_the_failures_before_it(state: PartitionState) -> None:
    runs = [*failures(1, 61), ended_run("run-5", ago=11_000), *failures(5, 12_000)]
    assert asked(state, runs)[0]


@STATES
def test_dead_runs_between_failures_do_not_forgive_them(state: PartitionState) -> None:
    first, second = failures(2, 200)
    for stage in (RunStage.UNFINISHED, RunStage.DIED):
        assert not asked(state, [first, run("run-k", stage, created=5000), second])[0]


@STATES
def test_a_clock_set_back_does_not_mean_waiting_for_it_to_catch_up(state: PartitionState) -> None:
    assert asked(state, [ended_run(ago=-86_400)])[0]


# After everything was killed


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[RunFacts], LeaseFacts | None]:
    """Give what Dagster and the ledger show when everything was killed at `NOW`: runs, newest first, and the lease."""
    runs, lease, ago = [], None, 0
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
        if lease is None and has_started and draw(st.booleans()):
            ran_out = NOW + draw(st.integers(-3600, LEASE_MS // 1000)) * 1000
            lease = LeaseFacts(owner=one.run_id, expires_at=0 if is_ended else draw(st.sampled_from([0, ran_out])))
    return runs, lease


@given(histories(), st.sampled_from([TABLES, VIDEOS]), st.integers(0, 100_000))
def test_two_minutes_after_everything_was_killed_the_dead_runs_change_nothing(
    history: tuple[list[RunFacts], LeaseFacts | None], state: PartitionState, downtime: int
) -> None:
    runs, lease = history
    then = NOW + downtime * 1000 + 120_000
    ended = [
        one
        for one in runs
        if one.stage in (RunStage.SUCCEEDED, RunStage.FAILED)
        or (lease is not None and lease.was_released and lease.owner == one.run_id and one.stage == RunStage.UNFINISHED)
    ]
    decision = decide(state, runs, lease, then)
    assert (decision.request, decision.reason) == asked(state, ended, lease, then)
    if not ended:
        assert decision.request


@given(histories(), st.sampled_from([TABLES, VIDEOS]))
def test_no_history_blocks_a_partition_for_longer_than_an_hour_and_a_start(
    history: tuple[list[RunFacts], LeaseFacts | None], state: PartitionState
) -> None:
    assert asked(state, *history, now=NOW + LONGEST_WAIT_MS + RUN_START_MS)[0]


@given(histories(), st.sampled_from([TABLES, VIDEOS]))
def test_nothing_is_asked_for_within_the_interval(
    history: tuple[list[RunFacts], LeaseFacts | None], state: PartitionState
) -> None:
    runs, lease = history
    assert not asked(state, [ended_run("newest", ago=LANDING_INTERVAL_MS / 1000 - 1), *runs], lease)[0]


# Which of them this tick


def wanted(kind: LandingKind, key: str, *, version: int = 1, expiry: int | None = None) -> Decision:
    state = PartitionState(kind=kind, key=key, version=version, due=int(expiry is not None), earliest_expiry=expiry)
    return Decision(state=state, request=True, reason="")


def keys(decisions: list[Decision], limit: int = REQUESTS_PER_TICK) -> list[str]:
    return [state.key for state in choose(decisions, limit)]


def test_the_first_video_to_expire_and_the_oldest_tables_come_first_in_turns() -> None:
    decisions = [
        wanted(LandingKind.VIDEOS, "no expiry"),
        wanted(LandingKind.VIDEOS, "late", expiry=300),
        wanted(LandingKind.VIDEOS, "early", expiry=100),
        wanted(LandingKind.TABLES, "new", version=30),
        wanted(LandingKind.TABLES, "old", version=10),
    ]
    asked_before = [replace(one, last_asked_at=number) for number, one in enumerate(reversed(decisions))]
    assert keys(asked_before) == ["early", "old", "late", "new", "no expiry"]
    assert keys(asked_before, limit=2) == ["early", "old"]
    assert keys(asked_before, limit=0) == []


def test_a_tick_asks_for_twenty_at_most_of_both_kinds() -> None:
    decisions = [
        wanted(kind, f"{kind}-{n}", version=n, expiry=n if kind == LandingKind.VIDEOS else None)
        for n in range(50)
        for kind in LandingKind
    ]
    chosen = choose(decisions)
    assert len(chosen) == REQUESTS_PER_TICK == 20
    assert {state.version for state in chosen} == set(range(10))


def test_many_partitions_whose_videos_never_come_do_not_keep_another_waiting() -> None:
    keys_of_dead = [f"dead {n}" for n in range(100)]
    expiries = {key: number for number, key in enumerate([*keys_of_dead, "healthy"])}
    asked_at = dict.fromkeys(keys_of_dead, 0)
    for tick in range(1, 12):
        decisions = [
            replace(wanted(LandingKind.VIDEOS, key, expiry=expiry), last_asked_at=asked_at.get(key, 0))
            for key, expiry in expiries.items()
        ]
        chosen = keys(decisions)
        assert chosen[0] == "dead 0"  # the first to expire
        asked_at |= dict.fromkeys(chosen, tick)
        if "healthy" in asked_at:
            return
    raise AssertionError("it was never asked for")


def test_a_request_knows_when_its_partition_was_asked_for_last() -> None:
    last = ended_run(ago=600)
    assert decide(VIDEOS, [last, ended_run("before", ago=900)], None, NOW).last_asked_at == last.created_at
    assert decide(VIDEOS, [], None, NOW).last_asked_at == 0


def test_what_is_not_to_be_asked_for_is_not_chosen() -> None:
    yes = wanted(LandingKind.TABLES, "yes")
    assert choose([replace(yes, request=False), yes]) == [yes.state]
    assert choose([]) == []
