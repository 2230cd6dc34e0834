"""A clock for tests: time moves only when something waits or the test says so."""

from __future__ import annotations

import itertools
import threading

_MICROSECONDS = itertools.count(1)


class FakeClock:
    """Starts at a fixed moment; ``sleep`` and ``wait`` advance it at once and take no real time."""

    def __init__(self, now_ms: int = 1_760_000_000_000) -> None:
        self._now_ms = float(now_ms)
        self._monotonic = 0.0
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def now_ms(self) -> int:
        return int(self._now_ms)

    def now_us(self) -> int:
        """Return a time that no clock of this process has told before: versions of two ledgers are never the same."""
        return int(self._now_ms) * 1000 + next(_MICROSECONDS)

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now_ms += seconds * 1000
            self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone, as an NTP correction does."""
        with self._lock:
            self._now_ms += seconds * 1000

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.advance(seconds)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if not event.is_set():
            self.advance(seconds)
        return event.is_set()
