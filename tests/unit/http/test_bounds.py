"""The low-speed limit and the bounded wait, without a socket."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.base.clock import Deadline
from akool_dagster.http.bounds import Bounds, LowSpeedLimit, SpeedMeter, call_within
from akool_dagster.http.errors import TransportError
from tests.clock import FakeClock

LIMIT = LowSpeedLimit(bytes_per_second=1000.0, seconds=30.0)
waits = st.floats(min_value=0.0, max_value=20.0)


def is_too_slow(meter: SpeedMeter, waited: float, received: int = 0) -> bool:
    try:
        meter.check(waited, received, "cdn.example")
    except TransportError as error:
        assert "cdn.example stalled" in str(error)
        return True
    return False


@given(st.lists(st.tuples(waits, st.floats(min_value=1.01, max_value=100.0)), max_size=200))
def test_a_download_that_keeps_to_the_limit_goes_on(steps: list[tuple[float, float]]) -> None:
    meter = SpeedMeter(LIMIT)
    assert not any(is_too_slow(meter, waited, int(waited * 1000 * faster) + 1) for waited, faster in steps)


@given(st.integers(min_value=0, max_value=1000), st.integers(min_value=0, max_value=499))
def test_a_download_that_slows_down_is_noticed_within_two_windows(good: int, drip: int) -> None:
    meter = SpeedMeter(LIMIT)
    assert not any(is_too_slow(meter, 0.5, 10_000) for _ in range(good))
    slow = next(number for number in range(1, 1000) if is_too_slow(meter, 0.5, drip))
    assert LIMIT.seconds / 2 < slow * 0.5 <= 2 * LIMIT.seconds or not drip


def test_silence_is_too_slow_after_the_window_however_low_the_limit() -> None:
    meter = SpeedMeter(LowSpeedLimit(bytes_per_second=0.0, seconds=30.0))
    assert [is_too_slow(meter, 10.0, count) for count in (0, 0, 1, 0, 0, 0)] == [False] * 5 + [True]


def test_without_a_limit_nothing_is_too_slow() -> None:
    assert not is_too_slow(SpeedMeter(None), 1e9)


@pytest.fixture
def hold(short_slices: None) -> threading.Event:
    return threading.Event()


def test_a_call_that_nothing_can_interrupt_is_left_when_it_takes_too_long(hold: threading.Event) -> None:
    clock = FakeClock()
    limits = Bounds(deadline=Deadline(clock, 60.0))
    try:
        with pytest.raises(TimeoutError):
            call_within(hold.wait, limits, "cdn.example", 0.02)
        clock.advance(61)
        with pytest.raises(TransportError, match="took too long"):
            call_within(hold.wait, limits, "cdn.example")
        limits.stop.set()
        with pytest.raises(TransportError, match="interrupted"):
            call_within(hold.wait, limits, "cdn.example")
    finally:
        hold.set()


def test_the_outcome_of_a_call_is_handed_over() -> None:
    limits = Bounds(deadline=Deadline(FakeClock(), 60.0))
    assert call_within(lambda: 7, limits, "cdn.example") == 7
    with pytest.raises(ZeroDivisionError):
        call_within(lambda: 1 // 0, limits, "cdn.example")
