"""When a failed video is tried again, and when it is lost or unverified."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger import VideoState
from akool_dagster.videos.errors import Failure
from akool_dagster.videos.refresh import AkoolSays
from akool_dagster.videos.schedule import (
    FEWEST_ATTEMPTS,
    FINAL_ATTEMPTS,
    GRACE_MS,
    LONGEST_WAIT_MS,
    MOST_REFUSALS,
    decide_fate,
    next_attempt_ms,
)

moments = st.integers(min_value=0, max_value=2**47)
failures = st.sampled_from(Failure)
answers = st.sampled_from(AkoolSays)
many = st.integers(min_value=FEWEST_ATTEMPTS, max_value=1000)
EXPIRY = 1_760_604_800_000
ENDED = "Its 7 days ended on 2025-10-16 08:53 UTC."
KEPT = "akool/videos/2025-10-09/a.unverified"


def fate(failure: Failure, says: AkoolSays, **seen: Any) -> tuple[VideoState, str]:
    return decide_fate(failure, says, **{"kept": None, "refusals": 0, "expires_at_ms": EXPIRY, "attempts": 5, **seen})


def test_waits_double_from_half_a_minute_to_an_hour() -> None:
    waits = [next_attempt_ms(attempts, 5) - 5 for attempts in (*range(1, 10), 10**9)]
    assert [wait / 1000 for wait in waits] == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]


def test_what_soon_trying_again_cannot_help_waits_the_longest() -> None:
    assert next_attempt_ms(1, 5, Failure.LASTING) == 5 + LONGEST_WAIT_MS


@pytest.mark.parametrize(("attempts", "minutes"), [(FINAL_ATTEMPTS, 120), (FEWEST_ATTEMPTS, 7)])
def test_a_fault_of_hours_or_a_wrong_clock_of_minutes_costs_no_video(attempts: int, minutes: int) -> None:
    tried_for = 0
    for attempt in range(1, attempts):
        tried_for = next_attempt_ms(attempt, tried_for)
    assert tried_for >= minutes * 60_000


@given(failures, answers, moments, moments)
def test_a_video_that_was_tried_less_than_five_times_is_never_lost(
    failure: Failure, says: AkoolSays, now_ms: int, expires_at_ms: int
) -> None:
    assert fate(failure, says, now_ms=now_ms, expires_at_ms=expires_at_ms, attempts=4) == (VideoState.PENDING, "")


FINAL_BEFORE_EXPIRY = {(Failure.GONE, AkoolSays.FAILED), (Failure.GONE, AkoolSays.UNKNOWN_ID)}


@given(failures, answers, many)
def test_before_its_time_is_over_a_video_is_lost_only_when_cdn_and_akool_deny_it_for_hours(
    failure: Failure, says: AkoolSays, attempts: int
) -> None:
    state, reason = fate(failure, says, now_ms=EXPIRY - 1, attempts=attempts)
    assert (state is VideoState.LOST) == ((failure, says) in FINAL_BEFORE_EXPIRY and attempts >= FINAL_ATTEMPTS)
    assert reason == ("Both say that there is no video." if state is VideoState.LOST else "")


@given(failures, answers)
def test_after_its_time_a_video_is_lost_at_once_only_when_nothing_can_be_hoped_for(
    failure: Failure, says: AkoolSays
) -> None:
    is_unasked = failure in (Failure.GONE, Failure.FORBIDDEN) and says is AkoolSays.NOTHING
    end = EXPIRY + (GRACE_MS if failure is Failure.PASSING or is_unasked else 0)
    assert fate(failure, says, now_ms=end - 1) == (VideoState.PENDING, "")
    assert fate(failure, says, now_ms=end) == (VideoState.LOST, ENDED)


@given(failures, answers, many, moments)
def test_a_video_is_never_tried_for_ever(failure: Failure, says: AkoolSays, attempts: int, expires_at_ms: int) -> None:
    seen = {"now_ms": expires_at_ms + GRACE_MS, "expires_at_ms": expires_at_ms, "attempts": attempts}
    assert fate(failure, says, **seen)[0] is VideoState.LOST
    assert fate(failure, says, kept=KEPT, refusals=1, **seen)[0] is VideoState.UNVERIFIED


@given(failures, answers, st.integers(0, 9), st.integers(1, 1000), moments)
def test_a_video_with_a_kept_file_is_never_lost_and_without_one_never_unverified(
    failure: Failure, says: AkoolSays, refusals: int, attempts: int, now_ms: int
) -> None:
    seen = {"refusals": refusals, "attempts": attempts, "now_ms": now_ms}
    assert fate(failure, says, kept=KEPT, **seen)[0] is not VideoState.LOST
    assert fate(failure, says, kept=None, **seen)[0] is not VideoState.UNVERIFIED


@given(failures, answers, st.integers(1, 8))
def test_a_refused_video_is_tried_until_the_third_refusal_or_the_end_of_its_url(
    failure: Failure, says: AkoolSays, attempts: int
) -> None:
    for refusals, now_ms, expected in [
        (MOST_REFUSALS - 1, EXPIRY - 1, (VideoState.PENDING, "")),
        (MOST_REFUSALS, EXPIRY - 1, (VideoState.UNVERIFIED, "What was served was refused 3 times.")),
        (1, EXPIRY, (VideoState.UNVERIFIED, ENDED)),
    ]:
        assert fate(failure, says, kept=KEPT, refusals=refusals, attempts=attempts, now_ms=now_ms) == expected
