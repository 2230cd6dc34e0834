"""The time that a simulated deployment lives in."""

from __future__ import annotations

import threading

from tests.clock import FakeClock

REAL_SECONDS = 20.0
"""What bounds a wait for another thread: a simulation that hangs must fail."""


class SimulatedClock(FakeClock):
    """As `FakeClock`, but waiting for an event takes no simulated time.

    A lease's thread would otherwise drive the clock on while nothing happens. It waits here, and so a process that is
    held up somewhere does not renew its lease, as one that the system has stopped.
    """

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(REAL_SECONDS)
