"""Whether a download has stalled: fewer bytes than a minimum over a while, which no socket's timeout notices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class MinimumPace:
    """What a download must keep to. No bytes, however small a number is asked for, is always a stall."""

    bytes_per_s: float = 1024.0
    over_seconds: float = 30.0


class PaceWatch:
    """Watches one download from outside, told now and then how far it is.

    Only time spent waiting for the server counts, of one request at a time: a slow disk is no stall, nor is
    a chain of redirects. What counts is the body: a head that drips is a stall too. Time goes in windows of
    ``over_seconds``, so a stall is noticed within two of them.
    """

    def __init__(self, minimum: MinimumPace, now: float) -> None:
        """Begin at a moment of a monotonic clock, in seconds."""
        self._minimum = minimum
        self._seen_at = now
        self._exchange = -1
        self._waited = 0.0
        self._received = 0

    def is_stalled(self, now: float, *, exchange: int, waiting: bool, received: int) -> bool:
        """Return whether the request under way has just ended a window with too few bytes."""
        elapsed, self._seen_at = now - self._seen_at, now
        if exchange != self._exchange:
            self._exchange = exchange
            self._begin_window(received)
        elif waiting:
            self._waited += elapsed
        if self._waited < self._minimum.over_seconds:
            return False
        gained, waited = received - self._received, self._waited
        self._begin_window(received)
        return gained <= 0 or gained < self._minimum.bytes_per_s * waited

    def _begin_window(self, received: int) -> None:
        self._waited = 0.0
        self._received = received
