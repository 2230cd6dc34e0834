"""Calls that nothing can interrupt, such as the looking up of a name, made where they can be left to themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


def in_background(call: Callable[[], _T]) -> Future[_T]:
    """Make a call in a thread of its own and return its future; wait for that as long as suits, then leave it.

    The thread ends when the call does and keeps no process alive. Whoever waits may give the future another outcome.
    """
    future: Future[_T] = Future()

    def work() -> None:
        with suppress(InvalidStateError):  # nobody waits any more
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)

    threading.Thread(target=work, name="akool-call", daemon=True).start()
    return future
