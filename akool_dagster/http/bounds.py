"""How long an HTTP exchange may take: the limits, and the waits that keep to them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TypeVar

from akool_dagster.base.clock import Deadline
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

    def left(self, host: str) -> float:
        """Return the time that is left. Raise `TransportError` when there is none or the work is to stop."""
        if self.stop.is_set():
            raise TransportError(f"The exchange with {host} was interrupted.")
        left = self.deadline.remaining()
        if left <= 0.0:
            raise TransportError(f"The exchange with {host} took too long: its time is over.")
        return left

    def slices(self, host: str, seconds: float) -> Iterator[float]:
        """Yield the lengths of the waits to make, one after the other, for something that may take so long.

        Raises `TransportError` as soon as the bounds are over. Ends when the seconds are.
        """
        while seconds > 0.0:
            left = self.left(host)
            part = min(SLICE_SECONDS, left, seconds)
            yield part
            seconds -= part
            if part == left:  # waited for in full, whatever the clock says: a test's may stand still
                raise TransportError(f"The exchange with {host} took too long: its time is over.")


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
    for part in bounds.slices(host, seconds):
        if wait([outcome], part).done:
            return outcome.result()
    raise TimeoutError


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
