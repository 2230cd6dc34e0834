from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.ledger import VideoState
from akool_dagster.videos.refresh import AkoolSays
from akool_dagster.videos.schedule import (
    FEWEST_ATTEMPTS,
    FINAL_ATTEMPTS,
    GRACE_MS,
    LONGEST_WAIT_MS,
    MOST_REFUSALS,
    Failure,
    decide_fate,
    next_attempt_ms,
    why_lost,
)

moments = st.integers(min_value=0, max_value=2**47)
failures = st.sampled_from(Failure)
answers = st.sampled_from(AkoolSays)
many = st.integers(min_value=5, max_value=1000)
EXPIRY = 1_760_604_800_000


def test_waits_double_from_half_a_minute_to_an_hour() -> None:
    waits = [next_attempt_ms(attempts, 0) // 1000 for attempts in range(1, 10)]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


@given(st.integers(min_value=0, max_value=10**9), moments)
def test_a_wait_is_never_shorter_than_before_and_never_above_an_hour(attempts: int, now_ms: int) -> None:
    wait = next_attempt_ms(attempts, now_ms) - now_ms
    assert wait <= next_attempt_ms(attempts + 1, now_ms) - now_ms <= LONGEST_WAIT_MS


def test_what_soon_trying_again_cannot_help_waits_the_longest() -> None:
    assert next_attempt_ms(1, 5, retryable=False) == 5 + LONGEST_WAIT_MS


@given(failures, answers, moments, moments)
def test_a_video_that_was_tried_less_than_five_times_is_never_lost(
    failure: Failure, says: AkoolSays, now_ms: int, expires_at_ms: int
) -> None:
    assert why_lost(failure, says, now_ms=now_ms, expires_at_ms=expires_at_ms, attempts=4) is None


FINAL_BEFORE_EXPIRY = {(Failure.GONE, AkoolSays.FAILED), (Failure.GONE, AkoolSays.UNKNOWN_ID)}


@given(failures, answers, many)
def test_before_its_time_is_over_a_video_is_lost_only_when_cdn_and_akool_deny_it_for_hours(
    failure: Failure, says: AkoolSays, attempts: int
) -> None:
    lost = why_lost(failure, says, now_ms=EXPIRY - 1, expires_at_ms=EXPIRY, attempts=attempts) is not None
    assert lost == ((failure, says) in FINAL_BEFORE_EXPIRY and attempts >= 9)


def test_nothing_is_final_within_two_hours_of_trying() -> None:
    tried_for = 0
    for attempts in range(1, FINAL_ATTEMPTS):
        tried_for = next_attempt_ms(attempts, tried_for)
    assert tried_for >= 2 * 3_600_000


def test_a_clock_that_is_wrong_for_minutes_costs_no_video() -> None:
    tried_for = 0
    for attempts in range(1, FEWEST_ATTEMPTS):
        tried_for = next_attempt_ms(attempts, tried_for)
    assert tried_for >= 7 * 60_000


PATIENCE = {
    (Failure.GONE, AkoolSays.SAME_URL): 0,
    (Failure.GONE, AkoolSays.NO_ROW): 0,
    (Failure.FORBIDDEN, AkoolSays.SAME_URL): 0,
    (Failure.FORBIDDEN, AkoolSays.NEW_URL): 0,
    (Failure.FORBIDDEN, AkoolSays.UNKNOWN_ID): 0,
    (Failure.GONE, AkoolSays.NOTHING): GRACE_MS,
    (Failure.FORBIDDEN, AkoolSays.NOTHING): GRACE_MS,
    (Failure.PASSING, AkoolSays.NOTHING): GRACE_MS,
    (Failure.PASSING, AkoolSays.NEW_URL): GRACE_MS,
    (Failure.LASTING, AkoolSays.NOTHING): 0,
}


@pytest.mark.parametrize(("failure", "says"), PATIENCE, ids=lambda one: one.name)
def test_after_its_time_a_video_is_lost_at_once_only_when_nothing_can_be_hoped_for(
    failure: Failure, says: AkoolSays
) -> None:
    end = EXPIRY + PATIENCE[failure, says]
    assert why_lost(failure, says, now_ms=end - 1, expires_at_ms=EXPIRY, attempts=5) is None
    reason = why_lost(failure, says, now_ms=end, expires_at_ms=EXPIRY, attempts=5)
    assert reason == "Its 7 days ended on 2025-10-16 08:53 UTC."


@given(failures, answers, many, moments)
def test_a_video_is_never_tried_for_ever(failure: Failure, says: AkoolSays, attempts: int, expires_at_ms: int) -> None:
    now_ms = expires_at_ms + GRACE_MS
    assert why_lost(failure, says, now_ms=now_ms, expires_at_ms=expires_at_ms, attempts=attempts) is not None


KEPT = "akool/videos/2025-10-09/a.unverified"


@given(failures, answers, st.integers(0, 9), st.integers(1, 1000), moments)
def test_a_video_with_a_kept_file_is_never_lost_and_without_one_never_unverified(
    failure: Failure, says: AkoolSays, refusals: int, attempts: int, now_ms: int
) -> None:
    seen = {"refusals": refusals, "attempts": attempts, "now_ms": now_ms, "expires_at_ms": EXPIRY}
    assert decide_fate(failure, says, kept=KEPT, **seen)[0] is not VideoState.LOST
    assert decide_fate(failure, says, kept=None, **seen)[0] is not VideoState.UNVERIFIED


@given(failures, answers, st.integers(1, 8))
def test_a_refused_video_is_tried_until_the_third_refusal_or_the_end_of_its_url(
    failure: Failure, says: AkoolSays, attempts: int
) -> None:
    def fate(refusals: int, now_ms: int) -> tuple[VideoState, str]:
        return decide_fate(
            failure, says, kept=KEPT, refusals=refusals, attempts=attempts, now_ms=now_ms, expires_at_ms=EXPIRY
        )

    assert fate(MOST_REFUSALS - 1, EXPIRY - 1) == (VideoState.PENDING, "")
    assert fate(MOST_REFUSALS, EXPIRY - 1) == (VideoState.UNVERIFIED, "What was served was refused 3 times.")
    assert fate(1, EXPIRY) == (VideoState.UNVERIFIED, "Its 7 days ended on 2025-10-16 08:53 UTC.")


@given(failures, answers, many, moments)
def test_a_video_without_a_kept_file_has_the_fate_that_its_failure_says(
    failure: Failure, says: AkoolSays, attempts: int, now_ms: int
) -> None:
    reason = why_lost(failure, says, now_ms=now_ms, expires_at_ms=EXPIRY, attempts=attempts)
    fate = decide_fate(failure, says, kept=None, refusals=0, attempts=attempts, now_ms=now_ms, expires_at_ms=EXPIRY)
    assert fate == ((VideoState.PENDING, "") if reason is None else (VideoState.LOST, reason))
