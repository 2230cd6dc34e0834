"""The retry decision, as a pure function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.api.retry import GiveUp, RetryPolicy

CHANCE = st.floats(0, 1, exclude_max=True)
SECONDS = st.floats(0, 1000)


@given(st.integers(1, 5000), st.none() | SECONDS, SECONDS, CHANCE)
def test_a_wait_is_never_longer_than_what_is_left(
    attempt: int, retry_after: float | None, remaining: float, chance: float
) -> None:
    wait = RetryPolicy(attempts=10_000).decide(attempt, retry_after=retry_after, remaining=remaining, chance=chance)
    assert isinstance(wait, GiveUp) or 0 <= wait < remaining


@given(st.integers(1, 3), st.floats(0, 30), CHANCE)
def test_an_asked_wait_is_never_shortened(attempt: int, retry_after: float, chance: float) -> None:
    wait = RetryPolicy().decide(attempt, retry_after=retry_after, remaining=100, chance=chance)
    assert not isinstance(wait, GiveUp)
    assert wait >= retry_after


@given(st.integers(1, 5000), CHANCE)
def test_the_backoff_doubles_up_to_its_limit_with_full_jitter(attempt: int, chance: float) -> None:
    wait = RetryPolicy(attempts=10_000).decide(attempt, retry_after=None, remaining=1000, chance=chance)
    assert wait == chance * (0.5, 1.0, 2.0, 4.0, 8.0)[min(attempt - 1, 4)]


@pytest.mark.parametrize(
    ("attempt", "retry_after", "remaining", "reason"),
    [
        (4, None, 100.0, GiveUp.ATTEMPTS),
        (1, 31.0, 100.0, GiveUp.ASKED_TOO_LONG),
        (1, 20.0, 20.0, GiveUp.DEADLINE),
        (3, None, 0.5, GiveUp.DEADLINE),
        (1, None, 0.0, GiveUp.DEADLINE),
    ],
)
def test_it_gives_up_for_a_reason(attempt: int, retry_after: float | None, remaining: float, reason: GiveUp) -> None:
    assert RetryPolicy().decide(attempt, retry_after=retry_after, remaining=remaining, chance=0.5) is reason


def test_no_attempts_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(attempts=0)
