from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.polling.schedule import (
    LONGEST_DELAY_MS,
    LONGEST_PAUSE_MS,
    PAUSE_AFTER_THROTTLE_MS,
    SHORTEST_DELAY_MS,
    Pace,
    call_seconds,
    next_poll_delay_ms,
    throttle_pause_ms,
)

ages = st.integers(min_value=-(10**13), max_value=10**13)


@given(ages, ages)
def test_the_delay_stays_within_its_bounds_and_never_falls_with_age(one: int, other: int) -> None:
    younger, older = (next_poll_delay_ms(age) for age in sorted((one, other)))
    assert SHORTEST_DELAY_MS <= younger <= older <= LONGEST_DELAY_MS
    assert (SHORTEST_DELAY_MS, LONGEST_DELAY_MS) == (5_000, 600_000)


@given(st.integers(min_value=25_000, max_value=3_000_000))
def test_between_the_bounds_the_delay_is_a_fifth_of_the_age(age_ms: int) -> None:
    assert abs(next_poll_delay_ms(age_ms) - age_ms / 5) < 1


def test_a_day_costs_fewer_than_two_hundred_polls() -> None:
    age = polls = 0
    while age < 86_400_000:
        age += next_poll_delay_ms(age)
        polls += 1
    assert 150 < polls < 200


@given(st.floats(min_value=0, max_value=1e12))
def test_a_throttle_pauses_as_long_as_akool_asks_and_never_above_an_hour(retry_after: float) -> None:
    assert throttle_pause_ms(retry_after) == int(min(retry_after * 1000, LONGEST_PAUSE_MS))
    assert throttle_pause_ms(None) == PAUSE_AFTER_THROTTLE_MS


@given(st.floats(min_value=0, max_value=3600))
def test_a_call_leaves_half_of_the_time_unless_little_is_left(remaining: float) -> None:
    assert call_seconds(remaining) == max(min(remaining, 5.0), remaining / 2)


@given(st.floats(min_value=0.01, max_value=100), st.lists(st.floats(min_value=0, max_value=10), max_size=20))
def test_no_more_calls_begin_than_the_rate_allows(rate: float, gaps: list[float]) -> None:
    pace, now, begun = Pace(rate), 0.0, []
    for gap in gaps:
        now += gap
        now += pace.delay(now)
        pace.begin(now)
        begun.append(now)
    assert all(later - earlier >= 1 / rate - 1e-6 for earlier, later in pairwise(begun))


def test_without_a_rate_no_call_waits_and_a_rate_is_above_zero() -> None:
    pace = Pace(None)
    pace.begin(1.0)
    assert pace.delay(1.0) == 0
    for rate in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="above 0"):
            Pace(rate)
