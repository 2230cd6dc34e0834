"""How long an HTTP exchange may take: the limits, and the waits that keep to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TypeVar

from akool_dagster.clock import Deadline
from akool_dagster.http.errors import TransportError

SLICE_SECONDS = 1.0
"""The longest wait after which a waiting thread looks at the deadline and at ``stop`` again."""

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class LowSpeedLimit:
    """The slowest acceptable download, as curl names it. No byte at all in ``seconds`` is always too slow."""

    bytes_per_second: float = 1024.0
    seconds: float = 30.0
    """The time over which the speed is averaged."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What one piece of work over HTTP may take, whatever it waits for. Times in seconds."""

    deadline: Deadline
    """The end of the whole work, redirects and several exchanges included."""
    connect_timeout: float = 10.0
    """For the TCP connection to one address, and again for the TLS handshake."""
    read_timeout: float = 30.0
    """The longest silence of the server."""
    low_speed: LowSpeedLimit | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    """Set it from any thread to end every wait within `SLICE_SECONDS`; connecting takes its own timeout."""

    def check(self, host: str) -> None:
        """Raise `TransportError` when the time is over or the work is to stop."""
        if self.stop.is_set():
            raise TransportError(f"The exchange with {host} was interrupted.")
        if self.deadline.expired():
            raise TransportError(f"The exchange with {host} took too long: its time is over.")

    def slice(self) -> float:
        """Return how long a wait may last until `check` is due again."""
        return max(0.001, min(SLICE_SECONDS, self.deadline.remaining()))


def call_within(call: Callable[[], _T], bounds: Bounds, host: str, seconds: float = float("inf")) -> _T:
    """Return what an uninterruptible call returns, such as the look-up of a name.

    The call gets a daemon thread of its own, which is left alone when the bounds end the wait (`TransportError`) or
    the seconds are over (`TimeoutError`).
    """
    outcome: Future[_T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, name="akool-call", daemon=True).start()
    while True:
        bounds.check(host)
        if seconds <= 0:
            raise TimeoutError
        part = min(bounds.slice(), seconds)
        if wait([outcome], part).done:
            return outcome.result()
        seconds -= part


class SpeedMeter:
    """Applies a `LowSpeedLimit` to one answer. Only time spent waiting for the server counts.

    Time goes in windows of the limit's ``seconds``, so that a slow download is noticed within two of them.
    """

    def __init__(self, limit: LowSpeedLimit | None) -> None:
        self._limit = limit
        self._waited = 0.0
        self._received = 0

    def check(self, waited: float, received: int, host: str) -> None:
        """Count a wait and the bytes it brought. Raise `TransportError` when a window ends with too few bytes."""
        if self._limit is None:
            return
        self._waited += waited
        self._received += received
        if self._waited < self._limit.seconds:
            return
        if self._received < max(1.0, self._limit.bytes_per_second * self._waited):
            raise TransportError(
                f"{host} stalled: it sent less than {self._limit.bytes_per_second:.0f} bytes/s "
                f"for {self._limit.seconds:.0f} s."
            )
        self._waited, self._received = 0.0, 0
