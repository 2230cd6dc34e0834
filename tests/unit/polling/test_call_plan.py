"""The laws of the plan, under any number of calls at a time and any order in which they end."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from akool_dagster.ledger import ClaimedJob
from akool_dagster.polling.call_plan import FAILURES_BEFORE_STOP, CallPlan
from tests.unit.polling.simulation import IDS_PER_REQUEST, Simulation

concurrency = st.integers(min_value=1, max_value=16)
seeds = st.integers(min_value=0, max_value=2**16)


def never(_: Sequence[str]) -> bool:
    return False


@given(st.integers(min_value=0, max_value=400), st.integers(min_value=1, max_value=60), concurrency)
def test_good_ids_take_as_few_calls_as_they_fill(number: int, ids_per_request: int, at_once: int) -> None:
    run = Simulation(number, never, at_once, ids_per_request)
    run.run_pass()
    assert not run.pending
    assert run.calls == -(-number // ids_per_request)


@given(st.sets(st.integers(min_value=0, max_value=119), max_size=119), concurrency, seeds)
@example({0, 1, 2, 3, 100, 38, 10, 11, 12, 13, 14, 15, 75, 110, 50, 88, 25}, 9, 0)  # nine calls failed side by side
def test_ids_that_akool_refuses_are_found_in_one_pass_and_all_others_answered(
    bad: set[int], at_once: int, seed: int
) -> None:
    poison = {f"{number:06}" for number in bad}
    run = Simulation(120, lambda ids: not poison.isdisjoint(ids), at_once, refuses=True, seed=seed)
    run.run_pass()
    assert run.pending == run.alone == poison
    assert {i for i, size in run.size.items() if size == 1} >= poison
    assert run.calls <= 3 + 2 * 6 * len(poison)
    assert run.limit is None or len(poison) > 1


@given(concurrency, seeds)
@settings(max_examples=20)
def test_one_bad_id_in_every_call_holds_up_no_other_id(at_once: int, seed: int) -> None:
    poison = {f"{50 * call + random.Random(seed + call).randrange(50):06}" for call in range(100)}
    run = Simulation(5_000, lambda ids: not poison.isdisjoint(ids), at_once, seed=seed)
    run.run_pass()
    assert run.pending == run.alone == poison
    assert run.limit is None
    assert run.calls < 1_400


@given(st.integers(min_value=1, max_value=60), concurrency, seeds)
@settings(max_examples=30)
def test_a_gateway_that_refuses_long_calls_gives_the_account_a_limit(most: int, at_once: int, seed: int) -> None:
    run = Simulation(1_500, lambda ids: len(ids) > most, at_once, seed=seed)
    run.run_pass()
    assert not run.pending
    if most >= IDS_PER_REQUEST:
        assert (run.limit, run.calls) == (None, 30)
    else:
        assert run.limit is not None
        assert most / 2 <= run.limit <= most
        assert run.calls <= 1_500 / run.limit + 60


@given(st.integers(min_value=1, max_value=49), concurrency)
def test_a_limit_is_lifted_by_an_answer_to_a_longer_call(limit: int, at_once: int) -> None:
    run = Simulation(1_500, never, at_once, limit=limit)
    run.run_pass()
    assert run.limit is None
    assert run.calls <= 30 + 6 * at_once + 1_500 / 50  # until it is lifted, others go on at the old length


@given(st.integers(min_value=13, max_value=24), concurrency)
def test_a_limit_that_holds_costs_one_failed_call_a_pass(limit: int, at_once: int) -> None:
    run = Simulation(1_500, lambda ids: len(ids) > limit, at_once, limit=limit)
    run.run_pass()
    assert (run.limit, run.failures) == (limit, [1])
    assert not run.pending


@given(concurrency, seeds)
def test_an_outage_ends_a_pass_after_twelve_calls_at_any_concurrency(at_once: int, seed: int) -> None:
    run = Simulation(2_000, lambda _: True, at_once, seed=seed)
    run.run_pass()
    assert run.failures == [run.calls] == [FAILURES_BEFORE_STOP]
    assert sum(size is not None for size in run.size.values()) <= 100
    assert run.limit is None


@given(st.sets(st.integers(min_value=0, max_value=2)), concurrency)
def test_calls_that_fail_once_cost_a_few_more(which: set[int], at_once: int) -> None:
    asked = iter(range(1_000))
    run = Simulation(1_000, lambda _: next(asked) in which, at_once)
    run.run_pass()
    assert not run.pending
    assert run.calls <= 20 + 5 * len(which) + at_once  # where the first calls failed, a limit holds for a while
    assert run.limit is None


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(("chance", "most"), [(0.001, 204), (0.01, 212), (0.1, 265)])
def test_calls_that_fail_at_random_cost_few_more(chance: float, most: int, at_once: int) -> None:
    dice = random.Random(11)
    run = Simulation(10_000, lambda _: dice.random() < chance, at_once)
    run.run(30)
    assert not run.pending
    assert run.calls <= most


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_an_outage_of_ten_minutes_costs_few_calls_afterwards(at_once: int) -> None:
    run = Simulation(10_000, lambda _: run.seconds < 600, at_once)
    run.run(20)
    during = run.calls
    assert during == 20 * FAILURES_BEFORE_STOP
    run.run(30)
    assert not run.pending
    assert run.calls - during <= 200 + 260


@pytest.mark.parametrize(("most", "calls"), [(20, 772), (1, 10_050)])
def test_a_gateway_that_fails_above_some_ids_costs_little_more_than_calls_of_that_length(most: int, calls: int) -> None:
    run = Simulation(10_000, lambda ids: len(ids) > most)
    run.run(5)
    assert not run.pending
    assert run.calls <= calls + 20


def claimed(name: str, call_size: int | None = None) -> ClaimedJob:
    return ClaimedJob(job_id=name, call_size=call_size, due_at=0)


def test_whole_calls_come_first_then_lowered_ones_and_a_rest_waits_for_more() -> None:
    plan = CallPlan(3, None)
    plan.add([claimed("a", 1), claimed("b"), claimed("c", 2), claimed("d", 9), claimed("e"), claimed("f")])
    calls = []
    while call := plan.next_call(more_due=True):
        calls.append("".join(call.ids))
    assert calls == ["bde", "c", "a"]
    rest = plan.next_call(more_due=False)
    assert rest is not None
    assert rest.ids == ["f"]
    assert plan.next_call(more_due=False) is None


def test_the_halves_of_a_failed_call_come_before_anything_else() -> None:
    plan = CallPlan(5, None)
    plan.add([claimed(name) for name in "abcdefghij"])
    first = plan.next_call(more_due=False)
    assert first is not None
    assert plan.failed(first) == 3
    calls = [plan.next_call(more_due=False) for _ in range(3)]
    assert ["".join(call.ids) for call in calls if call] == ["abc", "de", "fghij"]
