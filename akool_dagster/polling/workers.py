"""Calls side by side in threads, and their outcomes in the order in which they end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from akool_dagster.base.clock import Clock

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")


class Workers(Generic[_Key, _Result]):
    """One daemon thread a call: a call that never ends keeps no process alive, and nobody has to wait for it."""

    def __init__(self) -> None:
        self.running = 0
        self._ended = threading.Event()
        self._outcomes: queue.SimpleQueue[tuple[_Key, _Result | BaseException]] = queue.SimpleQueue()

    def start(self, key: _Key, call: Callable[[], _Result]) -> None:
        """Begin the call in a thread of its own."""
        self.running += 1
        threading.Thread(target=self._run, args=(key, call), name="akool-call", daemon=True).start()

    def _run(self, key: _Key, call: Callable[[], _Result]) -> None:
        try:
            outcome: _Result | BaseException = call()
        except BaseException as error:
            outcome = error
        self._outcomes.put((key, outcome))
        self._ended.set()

    def take(self) -> tuple[_Key, _Result | BaseException] | None:
        """Return the next call that has ended, with its result or exception; None when none has."""
        self._ended.clear()
        try:
            ended = self._outcomes.get_nowait()
        except queue.Empty:
            return None
        self._ended.set()  # there may be more
        self.running -= 1
        return ended

    def wait(self, seconds: float) -> bool:
        """Wait until a call has ended; return whether one has.

        The seconds are real ones, whatever the clock: they end the wait for a call that ignores its own deadline.
        """
        return self._ended.wait(seconds)

    def pause(self, clock: Clock, seconds: float) -> None:
        """Wait until a call has ended or the seconds are over by the clock."""
        clock.wait(self._ended, seconds)
