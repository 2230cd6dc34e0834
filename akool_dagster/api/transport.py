"""HTTP exchanges in which every single read of the socket ends at the caller's deadline.

urllib3 bounds each read by itself. A server that sends a byte now and then could so keep a status line, a header,
interim answers (1xx), the size of a chunk or a trailer going for ever, and the deadline of the call with them.
"""

from __future__ import annotations

import http.client
import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

from akool_dagster.clock import Deadline


@dataclass(frozen=True)
class _Bounds:
    deadline: Deadline
    read_timeout: float

    def left(self) -> float:
        """Return the seconds that the next read may take. Raises `TimeoutError` when there are none."""
        left = self.deadline.remaining()
        if left <= 0:
            raise TimeoutError("the deadline of the call is over")
        return min(left, self.read_timeout)


# urllib3 hands nothing but numbers down to a connection. An exchange stays in its thread, so this reaches it.
_bounds: ContextVar[_Bounds | None] = ContextVar("akool_dagster_api_bounds", default=None)


@contextmanager
def reads_within(deadline: Deadline, read_timeout: float) -> Iterator[None]:
    """Let no read of this thread's exchanges over a `DeadlineAdapter` take longer; times in seconds."""
    token = _bounds.set(_Bounds(deadline, read_timeout))
    try:
        yield
    finally:
        _bounds.reset(token)


class DeadlineAdapter(HTTPAdapter):
    """An adapter of requests whose exchanges keep to `reads_within`, through a proxy too (a SOCKS one excepted)."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pools; called by requests."""
        super().init_poolmanager(*args, **options)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> PoolManager:
        """Return the pools for a proxy; called by requests."""
        manager: PoolManager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):  # those have connections of their own
            _bound(manager)
        return manager


class _BoundedReader(io.RawIOBase):
    def __init__(self, connected: socket.socket, bounds: _Bounds) -> None:
        super().__init__()
        self._socket = connected
        self._file = connected.makefile("rb", buffering=0)
        self._bounds = bounds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._bounds.left())
        count = self._file.readinto(buffer)
        self._bounds.left()  # what came too late is not used, so that a wait is never longer than it seems
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        bounds = _bounds.get()
        if bounds is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_BoundedReader(sock, bounds))


class _BoundedHTTPConnection(HTTPConnection):
    response_class = _BoundedResponse


class _BoundedHTTPSConnection(HTTPSConnection):
    response_class = _BoundedResponse


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _BoundedHTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedHTTPSConnection


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
