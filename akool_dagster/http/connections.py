"""urllib3's connections, with every single wait inside the bounds of the exchange.

urllib3 bounds each read by itself. A server that sends a byte now and then could thus keep a status line, a header,
interim answers (1xx), the size of a chunk or a trailer going for ever.
"""

from __future__ import annotations

import http.client
import io
import logging
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.connection import create_connection

from akool_dagster.http.addresses import Resolver
from akool_dagster.http.bounds import Bounds, SpeedMeter, call_within
from akool_dagster.http.errors import TransportError

RESOLVE_SECONDS = 30.0


@dataclass(frozen=True)
class Exchange:
    """What a connection must know of the exchange that it is used for."""

    host: str
    bounds: Bounds
    resolve: Resolver
    """Return the addresses that may be connected to. Raise `OSError` when the host has none."""


# urllib3 hands nothing but numbers down to a connection. An exchange stays in its thread until the body is read.
_exchange: ContextVar[Exchange | None] = ContextVar("akool_dagster_http_exchange", default=None)


@contextmanager
def during(exchange: Exchange) -> Iterator[None]:
    """Apply the exchange's bounds to the connections that this thread uses."""
    token = _exchange.set(exchange)
    try:
        yield
    finally:
        _exchange.reset(token)


def bind(manager: PoolManager) -> None:
    """Let a manager's pools use the connections of this module."""
    manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class _BoundedReader(io.RawIOBase):
    def __init__(self, connected: socket.socket, exchange: Exchange) -> None:
        super().__init__()
        self._socket = connected
        self._open = connected.makefile("rb", buffering=0)  # keeps the socket open when its connection is closed
        self._host = exchange.host
        self._bounds = exchange.bounds
        self._meter = SpeedMeter(exchange.bounds.low_speed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        bounds = self._bounds
        for part in bounds.slices(self._host, bounds.read_timeout):
            before = bounds.deadline.remaining()
            count = self._receive(buffer, part)
            self._meter.check(before - bounds.deadline.remaining(), count or 0, self._host)
            if count is not None:
                bounds.left(self._host)  # what came too late is not used
                return count
        raise TransportError(f"{self._host} sent nothing for {bounds.read_timeout:g} s (read timeout).")

    def _receive(self, buffer: Any, seconds: float) -> int | None:
        if self._socket.gettimeout() != seconds:
            self._socket.settimeout(seconds)
        try:
            return self._socket.recv_into(buffer)
        except TimeoutError:
            return None

    def close(self) -> None:
        self._open.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        if (exchange := _exchange.get()) is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_BoundedReader(sock, exchange))


def _connected(connection: HTTPConnection) -> socket.socket:
    """Resolve the host, check its addresses and connect to one of the addresses, never to the name again."""
    exchange, host = _exchange.get(), connection.host
    if exchange is None:
        raise RuntimeError("A connection of this package is used outside of an exchange.")
    bounds = exchange.bounds
    try:
        addresses = call_within(lambda: exchange.resolve(host, connection.port), bounds, host, RESOLVE_SECONDS)
    except OSError as error:
        when = "in time" if type(error) is TimeoutError else "at the moment"
        raise TransportError(f"The name {host} does not resolve {when}.", detail=str(error)) from None
    reason = ""
    for address in addresses:
        timeout = min(bounds.connect_timeout, bounds.left(host))
        try:
            return create_connection((address, connection.port), timeout, socket_options=connection.socket_options)
        except OSError as error:
            reason = str(error)
    raise TransportError(f"{host} takes no connection.", detail=reason)


class _BoundedHTTPConnection(HTTPConnection):
    response_class = _BoundedResponse

    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _BoundedHTTPSConnection(HTTPSConnection):
    response_class = _BoundedResponse

    def _new_conn(self) -> socket.socket:
        return _connected(self)


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _BoundedHTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedHTTPSConnection


class _WithoutQueries(logging.Filter):
    """Takes the queries of our exchanges, which may be signatures, out of what urllib3 logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _exchange.get() is not None and isinstance(record.args, tuple):
            record.args = tuple(
                re.sub(r"\?\S*", "", value) if isinstance(value, str) else value for value in record.args
            )
        return True


for _name in ("urllib3.connectionpool", "urllib3.connection"):
    logging.getLogger(_name).addFilter(_WithoutQueries())
