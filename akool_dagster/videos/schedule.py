"""When to try a video again, and when to give it up: pure functions of numbers."""

from __future__ import annotations

FIRST_WAIT_MS = 30_000
LONGEST_WAIT_MS = 3_600_000


def next_attempt_ms(attempts: int, now_ms: int, *, retryable: bool = True) -> int:
    """Return the moment (epoch ms) before which a video is not tried again after that many attempts (from 1).

    30 s after the first, doubling up to one hour. An answer that only a change of configuration can turn
    (``retryable=False``) waits the whole hour at once.
    """
    if not retryable:
        return now_ms + LONGEST_WAIT_MS
    doublings = min(max(attempts - 1, 0), LONGEST_WAIT_MS.bit_length())
    return now_ms + min(FIRST_WAIT_MS << doublings, LONGEST_WAIT_MS)


def is_lost(now_ms: int, expires_at_ms: int, attempts: int) -> bool:
    """Return whether a video that could not be fetched is lost for good.

    Only when its URL's life is over and at least one attempt was made. No answer is final before that, not
    even a refused address: a broken name server or a missing setting must not cost a paid video.
    """
    return attempts >= 1 and now_ms >= expires_at_ms
