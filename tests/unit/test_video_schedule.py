from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.videos.schedule import LONGEST_WAIT_MS, is_lost, next_attempt_ms

moments = st.integers(min_value=0, max_value=2**50)


def test_waits_double_from_half_a_minute_to_an_hour() -> None:
    waits = [next_attempt_ms(attempts, 0) // 1000 for attempts in range(1, 10)]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


@given(st.integers(min_value=0, max_value=10**9), moments)
def test_a_wait_is_never_shorter_than_before_and_never_above_an_hour(attempts: int, now_ms: int) -> None:
    wait = next_attempt_ms(attempts, now_ms) - now_ms
    assert wait <= next_attempt_ms(attempts + 1, now_ms) - now_ms <= LONGEST_WAIT_MS


def test_what_soon_trying_again_cannot_help_waits_the_longest() -> None:
    assert next_attempt_ms(1, 5, retryable=False) == 5 + LONGEST_WAIT_MS


@given(moments, moments)
def test_a_video_that_was_never_tried_is_never_lost(now_ms: int, expires_at_ms: int) -> None:
    assert not is_lost(now_ms, expires_at_ms, 0)


@given(moments, moments, st.integers(min_value=1, max_value=1000))
def test_a_tried_video_is_lost_exactly_when_its_url_is_over(now_ms: int, expires_at_ms: int, attempts: int) -> None:
    assert is_lost(now_ms, expires_at_ms, attempts) == (now_ms >= expires_at_ms)
