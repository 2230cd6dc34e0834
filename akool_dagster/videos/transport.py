"""HTTP for videos: connects to the address that was checked, and can be interrupted from another thread."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urljoin

import certifi
from urllib3 import BaseHTTPResponse, HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from akool_dagster.background import in_background
from akool_dagster.clock import Deadline
from akool_dagster.videos.addresses import AddressPolicy, CheckedAddress, host_of
from akool_dagster.videos.errors import DownloadError, HostTroubleError, RefusedAddressError

RESOLVE_SECONDS = 30.0
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0
CHUNK_BYTES = 1 << 20
LONGEST_REDIRECTION = 5
#: A CDN's name resolves to ever other addresses; each kept connection is an open file.
MOST_POOLS = 4
REDIRECTS = frozenset({301, 302, 303, 307, 308})
HEADERS = {"Accept": "video/*, */*", "Accept-Encoding": "identity", "User-Agent": "akool-dagster"}

_QUERY = "akool-dagster-query"
"""A header that no server gets: how the query reaches the connection."""

_OnConnected = Callable[[socket.socket], None]
_T = TypeVar("_T")


class _TrackedHTTPConnection(HTTPConnection):
    def __init__(self, *args: Any, on_connected: _OnConnected, **options: Any) -> None:
        super().__init__(*args, **options)
        self._on_connected = on_connected

    def connect(self) -> None:
        super().connect()
        self._on_connected(self.sock)


class _TrackedHTTPSConnection(HTTPSConnection):
    def __init__(self, *args: Any, on_connected: _OnConnected, **options: Any) -> None:
        super().__init__(*args, **options)
        self._on_connected = on_connected
        self._shaking_hands: socket.socket | None = None

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        # A second handle, since the first one is worth nothing as soon as TLS begins, and nobody has the new one
        # before the handshake is done.
        self._shaking_hands = connected.dup()
        self._on_connected(self._shaking_hands)
        return connected

    def connect(self) -> None:
        try:
            super().connect()
        finally:
            if self._shaking_hands is not None:
                self._shaking_hands.close()
        self._on_connected(self.sock)


class _UnloggedQuery(HTTPConnection):
    """Sends a query that the pool was not told: pools log what they ask for, and the query may be a signature."""

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        headers = dict(headers or {})
        super().request(method, url + headers.pop(_QUERY, ""), body, headers, **options)


class _HTTPPoolConnection(_UnloggedQuery, _TrackedHTTPConnection):
    pass


class _HTTPSPoolConnection(_UnloggedQuery, _TrackedHTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPPoolConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSPoolConnection


@dataclass(frozen=True, kw_only=True)
class VideoResponse:
    """The answer after all redirects, its body not read yet."""

    status: int
    host: str
    length: int | None
    """Bytes the body will have, when the server says."""
    chunks: Iterator[bytes]


class VideoTransport:
    """Keep-alive connections for one worker thread; only `abort` may be called from another one.

    No proxy, no ``.netrc``, no API key, no cookies: it sends nothing but the URL's path and query.
    """

    def __init__(self, policy: AddressPolicy, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._policy = policy
        self._ssl_context = ssl_context or _default_ssl_context()
        self._pools: dict[tuple[str, str, int, str], HTTPConnectionPool] = {}
        self._sockets: tuple[socket.socket, ...] = ()
        self._aborted = threading.Event()
        self._reason = ""
        self._call: Future[Any] | None = None
        self.received_bytes = 0
        self.exchange = 0
        """Counts the requests that were sent; for whoever watches the pace from another thread."""
        self.waiting = False
        """Whether the worker waits for a server now, and does not write, check or publish."""

    def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            pool.close()

    @property
    def aborted(self) -> bool:
        """Whether `abort` was called; the transport is of no more use then."""
        return self._aborted.is_set()

    def abort(self, reason: str = "was interrupted") -> None:
        """Interrupt what the worker is waiting for, at once. Safe from any thread; the first reason counts.

        Only the making of a TCP connection goes on, for at most 10 seconds.
        """
        self._reason = self._reason or reason
        self._aborted.set()
        if (call := self._call) is not None:
            with suppress(InvalidStateError):
                call.set_exception(self._interruption())
        for connected in self._sockets:
            # The plain socket's method: that of a TLS socket lets a reader go on with undecrypted bytes.
            with suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def call(self, call: Callable[[], _T], seconds: float) -> _T:
        """Return what a call returns that nothing can interrupt, as the resolving of a name; wait only so long.

        When the seconds are over (`TimeoutError`) or after `abort` (`DownloadError`) it is left to itself.
        """
        self._call = future = in_background(call)
        try:
            if self.aborted:
                raise self._interruption()
            if not wait([future], seconds).done:
                raise TimeoutError
            return future.result()
        finally:
            self._call = None

    @contextmanager
    def get(self, url: str, deadline: Deadline) -> Iterator[VideoResponse]:
        """Ask for a URL, following at most 5 redirects, each address checked.

        Raises `RefusedAddressError`, or `HostTroubleError` for whatever the network does, also while the chunks
        are read. No single wait is longer than 30 seconds or what is left of the deadline. A server that sends
        a little all the time never makes a wait that long: watch the pace, and `abort`.
        """
        for _ in range(LONGEST_REDIRECTION + 1):
            address = self._checked(url, deadline)
            response = self._request(address, deadline)
            location = response.headers.get("Location")
            if response.status not in REDIRECTS or location is None:
                break
            response.close()
            try:
                url = urljoin(url, location)
            except ValueError:
                raise RefusedAddressError(f"{address.host} redirects to what is no URL.") from None
        else:
            raise DownloadError(f"{address.host} redirects more than {LONGEST_REDIRECTION} times.", retryable=False)
        try:
            yield VideoResponse(
                status=response.status,
                host=address.host,
                length=response.length_remaining,
                chunks=self._chunks(response, address.host, deadline),
            )
        finally:
            # A body read to its end has already given its connection back to the pool.
            response.close()

    def _checked(self, url: str, deadline: Deadline) -> CheckedAddress:
        self._check_time(host_of(url), deadline)
        # The system's resolver takes as long as it likes.
        try:
            return self.call(lambda: self._policy.check(url), min(RESOLVE_SECONDS, deadline.remaining()))
        except OSError as error:
            reason = "in time" if type(error) is TimeoutError else "at the moment"
            raise HostTroubleError(f"The host of the URL does not resolve {reason}.") from None

    def _request(self, address: CheckedAddress, deadline: Deadline) -> BaseHTTPResponse:
        *others, last = sorted(address.addresses, key=lambda ip: self._key(address, ip) not in self._pools)
        with self._translated(address.host):
            for ip in others:
                with suppress(NewConnectionError, ConnectTimeoutError):
                    return self._request_from(address, ip, deadline)
            return self._request_from(address, last, deadline)

    def _request_from(self, address: CheckedAddress, ip: str, deadline: Deadline) -> BaseHTTPResponse:
        self._check_time(address.host, deadline)
        self.exchange += 1
        left = deadline.remaining()
        path, mark, query = address.target.partition("?")
        return self._pool(address, ip).urlopen(
            "GET",
            path,
            headers={**HEADERS, "Host": address.host_header, _QUERY: mark + query},
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=min(CONNECT_SECONDS, left), read=min(READ_SECONDS, left)),
            preload_content=False,
            decode_content=False,
        )

    def _chunks(self, response: BaseHTTPResponse, host: str, deadline: Deadline) -> Iterator[bytes]:
        while True:
            with self._translated(host):
                # ``read1``, not ``read``: that one loops until the chunk is full, which a slow server never does.
                chunk = response.read1(CHUNK_BYTES, decode_content=False)
            self._check_time(host, deadline)
            if not chunk:
                return
            self.received_bytes += len(chunk)
            yield chunk

    def _check_time(self, host: str, deadline: Deadline) -> None:
        if self.aborted:
            raise self._interruption(host)
        if deadline.expired():
            raise HostTroubleError(f"The download from {host} took too long.")

    def _interruption(self, host: str = "its host") -> DownloadError:
        return HostTroubleError(f"The download from {host} {self._reason}.")

    @contextmanager
    def _translated(self, host: str) -> Iterator[None]:
        self.waiting = True
        try:
            yield
        except (HTTPError, OSError, ValueError) as error:
            if self.aborted:
                raise self._interruption(host) from None
            # Only the kind of error: the texts of urllib3 quote the URL.
            raise HostTroubleError(f"The download from {host} broke off: {type(error).__name__}.") from None
        finally:
            self.waiting = False

    @staticmethod
    def _key(address: CheckedAddress, ip: str) -> tuple[str, str, int, str]:
        return address.scheme, ip, address.port, address.host

    def _pool(self, address: CheckedAddress, ip: str) -> HTTPConnectionPool:
        key = self._key(address, ip)
        if key not in self._pools:
            while len(self._pools) >= MOST_POOLS:
                self._pools.pop(next(iter(self._pools))).close()
            self._pools[key] = self._new_pool(address, ip)
        return self._pools[key]

    def _new_pool(self, address: CheckedAddress, ip: str) -> HTTPConnectionPool:
        if address.scheme == "http":
            return _HTTPPool(ip, address.port, on_connected=self._connected)
        return _HTTPSPool(
            ip,
            address.port,
            server_hostname=address.host,
            ssl_context=self._ssl_context,
            on_connected=self._connected,
        )

    def _connected(self, new: socket.socket) -> None:
        # The socket, since a connection forgets it while the last answer is still being read from it.
        self._sockets = (*(known for known in self._sockets if known.fileno() != -1), new)
        if self.aborted:
            self.abort()


@cache
def _default_ssl_context() -> ssl.SSLContext:
    """Trust what the system trusts (``SSL_CERT_FILE`` included) and what certifi brings along."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
