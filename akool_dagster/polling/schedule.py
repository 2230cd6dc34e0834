"""When to poll next, how long to pause and how long a call may take: pure functions of times."""

from __future__ import annotations

SHORTEST_DELAY_MS = 5_000
LONGEST_DELAY_MS = 600_000
DELAY_SHARE_OF_AGE = 0.2

PAUSE_AFTER_THROTTLE_MS = 30_000
"""When Akool throttles without saying for how long."""
LONGEST_PAUSE_MS = 3_600_000
"""However long Akool asks us to wait: one odd ``Retry-After`` must not stop polling for good."""
RETRY_AFTER_FAILURES_MS = 30_000
"""When the ids are due again that were asked for in a pass which stopped for its failures ..."""
RETRY_AFTER_REFUSALS_MS = 300_000
"""... and in a pass in which Akool refused the ids of every call."""
CALL_SHARE = 0.5
"""A call takes at most this share of the time that is left ..."""
SHORTEST_CALL_SECONDS = 5.0
"""... or this long: a call that is never answered must leave time to ask for its halves."""


def next_poll_delay_ms(age_ms: int) -> int:
    """Return how long to wait before a job that has been watched for this long is polled again, in milliseconds.

    Detection lags by at most a fifth of a job's age, and the calls for a job grow with the logarithm of its age.
    """
    return int(min(max(DELAY_SHARE_OF_AGE * age_ms, SHORTEST_DELAY_MS), LONGEST_DELAY_MS))


def throttle_pause_ms(retry_after: float | None) -> int:
    """Return how long polling pauses after a throttle, in milliseconds; ``retry_after`` is in seconds."""
    return PAUSE_AFTER_THROTTLE_MS if retry_after is None else int(min(retry_after * 1000, LONGEST_PAUSE_MS))


def call_seconds(remaining: float) -> float:
    """Return how long a call may take when the pass has ``remaining`` seconds left."""
    return min(remaining, max(SHORTEST_CALL_SECONDS, CALL_SHARE * remaining))


class Pace:
    """Spaces calls evenly, at most so many a second. Times are monotonic seconds.

    Not pyrate-limiter: its limiter waits with `time.sleep`, which neither an injected clock nor the end of another
    call can interrupt.
    """

    def __init__(self, requests_per_second: float | None) -> None:
        """Raise ValueError for a rate that is not above 0; None is no limit."""
        if requests_per_second is not None and not requests_per_second > 0:
            raise ValueError(f"requests_per_second must be above 0, not {requests_per_second}")
        self._interval = 0.0 if requests_per_second is None else 1 / requests_per_second
        self._next_at = float("-inf")

    def delay(self, now: float) -> float:
        """Return the seconds until the next call may begin; 0 for now."""
        return max(0.0, self._next_at - now)

    def begin(self, now: float) -> None:
        """Note that a call begins."""
        self._next_at = max(self._next_at, now) + self._interval
