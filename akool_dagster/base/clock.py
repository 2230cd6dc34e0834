"""The clock and deadlines: every ``now`` and every wait of the package goes through a `Clock`."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time, elapsed time and waiting. Tests pass one whose time moves only when told to."""

    def now_ms(self) -> int:
        """Return the wall time as milliseconds since the Unix epoch, UTC."""

    def now_us(self) -> int:
        """Return the wall time as microseconds since the Unix epoch, UTC: what versions follow."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for so many seconds."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Block the calling thread until the event is set or the seconds are over; return whether it is set."""


class SystemClock(Clock):
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


class Deadline:
    """A time after which a bounded piece of work starts nothing new."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    def remaining(self) -> float:
        """Return the seconds left, never below zero."""
        return max(0.0, self._end - self._clock.monotonic())

    def expired(self) -> bool:
        """Return whether no time is left."""
        return self.remaining() <= 0.0
