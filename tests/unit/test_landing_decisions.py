from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.landing import (
    ASK_AGAIN_MS,
    LONGEST_BACK_OFF_MS,
    REQUESTS_PER_TICK,
    UNLEASED_RUN_MS,
    Decision,
    LandingKind,
    PartitionState,
    RunFacts,
    RunStage,
    choose,
    decide,
)
from akool_dagster.ledger.records import LEASE_MS, LeaseFacts

NOW = 1_760_000_000_000
TABLES = PartitionState(kind=LandingKind.TABLES, key="2025-10-09", head=7)
VIDEOS = PartitionState(kind=LandingKind.VIDEOS, key="2025-10-09", head=7, due=3, earliest_expiry=NOW + 1)
STATES = pytest.mark.parametrize("state", [TABLES, VIDEOS], ids=["tables", "videos"])


def run(
    run_id: str = "run-1",
    stage: RunStage = RunStage.SUCCEEDED,
    *,
    created: float = 3600,
    started: float | None = None,
    ended: float | None = None,
) -> RunFacts:
    """Return a run; the times are how many seconds ago it was."""

    def ago(seconds: float | None) -> int | None:
        return None if seconds is None else NOW - int(seconds * 1000)

    return RunFacts(
        run_id=run_id, stage=stage, created_at=NOW - int(created * 1000), started_at=ago(started), ended_at=ago(ended)
    )


def ended_run(run_id: str = "run-1", stage: RunStage = RunStage.SUCCEEDED, *, ago: float, took: float = 1) -> RunFacts:
    return run(run_id, stage, created=ago + took, started=ago + took, ended=ago)


def asked(
    state: PartitionState, runs: list[RunFacts], lease: LeaseFacts | None = None, now: int = NOW
) -> tuple[bool, str]:
    decision = decide(state, runs, lease, now)
    assert decision.state is state
    return decision.request, decision.reason


# In flight


@STATES
def test_a_dirty_partition_without_any_run_is_asked_for(state: PartitionState) -> None:
    request, reason = asked(state, [])
    assert request
    assert reason == ("3 videos due" if state.due else "new results")


@STATES
def test_a_live_lease_means_that_somebody_is_landing_it(state: PartitionState) -> None:
    lease = LeaseFacts(owner="backfill-run", expires_at=NOW + 1)
    assert asked(state, [], lease) == (False, "run backfill-run is landing it")


@STATES
@pytest.mark.parametrize("expires_at", [NOW, NOW - 1, 0])
def test_a_lease_that_ran_out_means_nothing(state: PartitionState, expires_at: int) -> None:
    assert asked(state, [], LeaseFacts(owner="gone", expires_at=expires_at))[0]


@STATES
def test_a_lease_longer_than_any_lease_was_taken_under_a_wrong_clock(state: PartitionState) -> None:
    assert not asked(state, [], LeaseFacts(owner="run-1", expires_at=NOW + 2 * LEASE_MS))[0]
    assert asked(state, [], LeaseFacts(owner="run-1", expires_at=NOW + 2 * LEASE_MS + 1))[0]


@STATES
@pytest.mark.parametrize("created", [1, 900, 86_400])
def test_a_queued_run_is_waited_for_however_long_it_queues(state: PartitionState, created: float) -> None:
    assert asked(state, [run("run-9", RunStage.QUEUED, created=created)]) == (False, "run run-9 is queued")


@STATES
def test_a_queued_run_behind_a_newer_one_counts_too(state: PartitionState) -> None:
    runs = [ended_run("run-2", ago=600), run("run-1", RunStage.QUEUED, created=700)]
    assert asked(state, runs) == (False, "run run-1 is queued")


@STATES
def test_a_run_that_never_had_the_lease_is_starting_for_a_quarter_of_an_hour(state: PartitionState) -> None:
    def unfinished(created_ms: int) -> list[RunFacts]:
        return [RunFacts(run_id="run-1", stage=RunStage.UNFINISHED, created_at=NOW - created_ms)]

    assert UNLEASED_RUN_MS == 15 * 60_000
    reason = "run run-1 is starting, and counts as dead if it does nothing for another 900 s"
    assert asked(state, unfinished(0)) == (False, reason)
    assert asked(state, unfinished(UNLEASED_RUN_MS - 1)) == (False, reason.replace("900", "0"))
    assert asked(state, unfinished(UNLEASED_RUN_MS))[0]


@STATES
def test_a_deployment_may_allow_a_run_another_time_to_start(state: PartitionState) -> None:
    starting = [run("run-1", RunStage.UNFINISHED, created=100)]
    assert not decide(state, starting, None, NOW).request
    assert not decide(state, starting, None, NOW, run_start_ms=100_001).request
    assert decide(state, starting, None, NOW, run_start_ms=100_000).request


@STATES
def test_an_unfinished_run_whose_lease_ran_out_is_dead(state: PartitionState) -> None:
    killed = run("run-1", RunStage.UNFINISHED, created=200, started=190)
    assert asked(state, [killed], LeaseFacts(owner="run-1", expires_at=NOW - 1))[0]


@STATES
def test_a_killed_run_is_dead_too_when_a_newer_one_took_its_lease(state: PartitionState) -> None:
    runs = [ended_run("run-2", ago=120), run("run-1", RunStage.UNFINISHED, created=400, started=390)]
    assert asked(state, runs, LeaseFacts(owner="run-2", expires_at=0))[0]


@STATES
def test_a_run_that_is_newer_than_the_last_lease_is_starting(state: PartitionState) -> None:
    runs = [run("run-2", RunStage.UNFINISHED, created=20), ended_run("run-1", ago=300)]
    assert asked(state, runs, LeaseFacts(owner="run-1", expires_at=0)) == (
        False,
        "run run-2 is starting, and counts as dead if it does nothing for another 880 s",
    )


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
    assert not decide(state, runs, None, NOW).request
    assert decide(state, runs, None, NOW, ask_again_ms=20_000).request
    assert not decide(state, runs, None, NOW, ask_again_ms=20_001).request


def test_tables_that_took_long_are_left_alone_ten_times_as_long() -> None:
    assert not asked(TABLES, [ended_run(ago=399, took=40)])[0]
    assert asked(TABLES, [ended_run(ago=400, took=40)])[0]


def test_a_long_run_of_videos_goes_on_after_a_minute() -> None:
    assert not asked(VIDEOS, [ended_run(ago=59, took=300)])[0]
    assert asked(VIDEOS, [ended_run(ago=60, took=300)])[0]


def test_only_the_last_run_counts_for_the_interval() -> None:
    assert asked(TABLES, [ended_run("run-2", ago=61), ended_run("run-1", ago=300, took=3000)])[0]


# Failures


def failures(number: int, ago: float) -> list[RunFacts]:
    return [ended_run(f"run-{9 - n}", RunStage.FAILED, ago=ago + 10_000 * n) for n in range(number)]


@STATES
@pytest.mark.parametrize(("number", "wait"), [(1, 60), (2, 240), (3, 480), (4, 960), (5, 1920), (6, 3600), (8, 3600)])
def test_the_wait_grows_with_the_failures_in_a_row_up_to_an_hour(
    state: PartitionState, number: int, wait: float
) -> None:
    assert not asked(state, failures(number, wait - 1))[0]
    assert asked(state, failures(number, wait))[0]


def test_a_wait_after_failures_says_how_many_there_were() -> None:
    assert asked(TABLES, failures(3, 1)) == (False, "asked again in 479 s, after 3 failed runs")


@STATES
def test_a_success_forgives_the_failures_before_it(state: PartitionState) -> None:
    runs = [*failures(1, 61), ended_run("run-5", ago=11_000), *failures(5, 12_000)]
    assert asked(state, runs)[0]


@STATES
def test_killed_runs_do_not_count_as_failures(state: PartitionState) -> None:
    killed = [run(f"run-{n}", RunStage.UNFINISHED, created=2000 + n, started=2000 + n) for n in range(6)]
    newest = run("run-9", RunStage.UNFINISHED, created=70, started=61)
    assert asked(state, [newest, *killed], LeaseFacts(owner="run-9", expires_at=NOW - 1))[0]


@STATES
def test_killed_runs_between_failures_do_not_forgive_them(state: PartitionState) -> None:
    first, second = failures(2, 200)
    killed = run("run-k", RunStage.UNFINISHED, created=5000)
    assert not asked(state, [first, killed, second])[0]


@STATES
def test_a_clock_set_back_does_not_mean_waiting_for_it_to_catch_up(state: PartitionState) -> None:
    tomorrow = ended_run(ago=-86_400)  # the run was under a clock a day ahead
    assert asked(state, [tomorrow])[0]
    unfinished = RunFacts(run_id="run-1", stage=RunStage.UNFINISHED, created_at=NOW + 86_400_000)
    assert asked(state, [unfinished])[0]


stages = st.sampled_from(RunStage)
moments = st.integers(min_value=NOW - 40_000_000, max_value=NOW + 40_000_000)
any_run = st.builds(
    RunFacts,
    run_id=st.uuids().map(str),
    stage=stages,
    created_at=moments,
    started_at=st.none() | moments,
    ended_at=st.none() | moments,
)


@given(st.lists(any_run, max_size=8), st.sampled_from([TABLES, VIDEOS]))
def test_no_history_without_a_queued_run_blocks_a_partition_for_good(
    runs: list[RunFacts], state: PartitionState
) -> None:
    runs = [one for one in runs if one.stage != RunStage.QUEUED]
    # 80,000 s is the longest time between two of the moments above: ten times that, and an hour, bound every wait.
    later = NOW + 40_000_000 + 10 * 80_000_000 + LONGEST_BACK_OFF_MS
    assert asked(state, runs, now=later)[0]


@given(st.lists(any_run, max_size=8), st.sampled_from([TABLES, VIDEOS]))
def test_nothing_is_asked_for_within_the_interval(runs: list[RunFacts], state: PartitionState) -> None:
    runs = [ended_run("newest", ago=ASK_AGAIN_MS / 1000 - 1), *runs]
    assert not asked(state, runs)[0]


# Which of them this tick


def wanted(kind: LandingKind, key: str, *, head: int = 1, expiry: int | None = None, request: bool = True) -> Decision:
    state = PartitionState(kind=kind, key=key, head=head, due=int(expiry is not None), earliest_expiry=expiry)
    return Decision(state=state, request=request, reason="")


def keys(decisions: list[Decision], limit: int = REQUESTS_PER_TICK) -> list[str]:
    return [state.key for state in choose(decisions, limit)]


def test_the_first_video_to_expire_comes_first() -> None:
    decisions = [
        wanted(LandingKind.VIDEOS, "no expiry"),
        wanted(LandingKind.VIDEOS, "late", expiry=300),
        wanted(LandingKind.VIDEOS, "early", expiry=100),
        wanted(LandingKind.VIDEOS, "middle", expiry=200),
    ]
    assert keys(decisions) == ["early", "middle", "late", "no expiry"]


def test_tables_and_videos_take_turns() -> None:
    decisions = [
        *(wanted(LandingKind.VIDEOS, f"v{n}", expiry=n) for n in range(4)),
        *(wanted(LandingKind.TABLES, f"t{n}", head=n) for n in range(2)),
    ]
    assert keys(decisions) == ["v0", "t0", "v1", "t1", "v2", "v3"]
    assert keys(decisions[4:]) == ["t0", "t1"]


def test_what_waited_longest_of_the_tables_comes_first() -> None:
    decisions = [wanted(LandingKind.TABLES, f"head {head}", head=head) for head in (30, 10, 20)]
    assert keys(decisions) == ["head 10", "head 20", "head 30"]


def test_a_tick_asks_for_twenty_at_most() -> None:
    decisions = [
        wanted(kind, f"{kind}-{n}", head=n, expiry=n if kind == LandingKind.VIDEOS else None)
        for n in range(50)
        for kind in LandingKind
    ]
    chosen = choose(decisions)
    assert len(chosen) == REQUESTS_PER_TICK == 20
    assert {state.head for state in chosen} == set(range(10))


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
    run = ended_run(ago=600)
    assert decide(VIDEOS, [run, ended_run("before", ago=900)], None, NOW).last_asked_at == run.created_at
    assert decide(VIDEOS, [], None, NOW).last_asked_at == 0


def test_what_is_not_to_be_asked_for_is_not_chosen() -> None:
    assert keys([wanted(LandingKind.TABLES, "no", request=False), wanted(LandingKind.TABLES, "yes")]) == ["yes"]
    assert choose([]) == []
