"""The retry decision, as a pure function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.api.retry import RetryPolicy

CHANCE = st.floats(0, 1, exclude_max=True)


@given(st.integers(1, 3), st.floats(0, 30), CHANCE)
def test_an_asked_wait_is_never_shortened(attempt: int, retry_after: float, chance: float) -> None:
    wait = RetryPolicy().decide(attempt, retry_after=retry_after, chance=chance)
    assert wait is not None
    assert wait >= retry_after


@given(st.integers(1, 5000), CHANCE)
def test_the_backoff_doubles_up_to_its_limit_with_full_jitter(attempt: int, chance: float) -> None:
    wait = RetryPolicy(attempts=10_000).decide(attempt, retry_after=None, chance=chance)
    assert wait == chance * (0.5, 1.0, 2.0, 4.0, 8.0)[min(attempt - 1, 4)]


@pytest.mark.parametrize(("attempt", "retry_after"), [(4, None), (1, 30.5)])
def test_it_gives_up_after_its_attempts_and_when_akool_asks_for_too_long(
    attempt: int, retry_after: float | None
) -> None:
    assert RetryPolicy().decide(attempt, retry_after=retry_after, chance=0.5) is None


def test_no_attempts_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RetryPolicy(attempts=0)
