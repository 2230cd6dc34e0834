"""The HTTP transport: exchanges bounded in time and size, only to addresses that were checked."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urljoin

import certifi
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.exceptions import HTTPError

from akool_dagster.http.addresses import AddressPolicy, Resolver, Target, parse_target, resolve
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.connections import Exchange, bind, during
from akool_dagster.http.errors import RefusedAddressError, TooLargeError, TooManyRedirectsError, TransportError

CHUNK_BYTES = 1 << 20
REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, kw_only=True)
class HttpResponse:
    """The answer after all redirects, its body not read yet."""

    status: int
    host: str
    headers: Mapping[str, str]
    length: int | None
    """Bytes the body will have, when the server says."""
    chunks: Iterator[bytes]
    """The body as it was sent, in chunks of at most 1 MiB. Raises `TransportError`, also when it ends early."""

    def read(self, at_most: int) -> bytes:
        """Return the whole body. Raises `TooLargeError` for one of more bytes, and `TransportError`."""
        body = bytearray()
        for chunk in self.chunks:
            body += chunk
            if len(body) > at_most:
                raise TooLargeError(f"{self.host} sends more than {at_most} bytes.")
        return bytes(body)


class HttpTransport:
    """Kept-alive connections, usable from several threads. Reads no environment and keeps no cookies.

    With a policy only the addresses that it allows are connected to. ``proxy`` is the URL of a proxy, which then
    looks names up; reads through a SOCKS proxy end at the read timeout, each by itself.

    Example::

        with http.request("GET", url, bounds=Bounds(deadline=Deadline(clock, 60.0)), headers={}) as response:
            body = response.read(1_000_000)
    """

    def __init__(
        self,
        policy: AddressPolicy | None = None,
        *,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        connections: int = 8,
    ) -> None:
        """Keep at most so many idle connections to a host.

        Raises `ValueError` for a proxy of an unknown kind, and for one beside a policy: it would connect to addresses
        that nobody checked.
        """
        if policy is not None and proxy is not None:
            raise ValueError("A transport with an address policy cannot go through a proxy.")
        self._policy = policy
        context = ssl_context or trusted_context()
        if proxy is None:
            self._manager = PoolManager(maxsize=connections, ssl_context=context)
        else:
            self._manager = HTTPAdapter(pool_maxsize=connections).proxy_manager_for(proxy, ssl_context=context)
        if proxy is None or not proxy.lower().startswith("socks"):  # SOCKS has connections of its own
            bind(self._manager)

    def close(self) -> None:
        """Close the idle connections."""
        # Clearing alone closes only pools that nothing refers to; the traceback of an error does.
        for key in self._manager.pools.keys():  # noqa: SIM118  (urllib3's own container)
            if (pool := self._manager.pools.get(key)) is not None:
                pool.close()
        self._manager.clear()

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        bounds: Bounds,
        headers: Mapping[str, str],
        body: bytes | None = None,
        redirects: int = 0,
    ) -> Iterator[HttpResponse]:
        """Send a request, follow so many redirects, and close what is not read in the end.

        The URL of each redirect is checked like the first. An open connection is used again without asking for the
        name anew; a new one goes to an address that was checked. With ``redirects=0`` a redirect is an answer.
        Raises `RefusedAddressError` and `TransportError`.
        """
        left = redirects
        while True:
            target = parse_target(url) if self._policy is None else self._policy.check(url)
            exchange = Exchange(target.host, bounds, self._resolver(target))
            response = self._answer(method, target, exchange, headers, body)
            location = response.headers.get("Location")
            if not redirects or response.status not in REDIRECTS or location is None:
                break
            response.close()
            if not left:
                raise TooManyRedirectsError(f"{target.host} redirects more than {redirects} times.")
            left -= 1
            try:
                url = urljoin(url, location)
            except ValueError:
                raise RefusedAddressError(f"{target.host} redirects to what is no URL.") from None
        try:
            yield HttpResponse(
                status=response.status,
                host=target.host,
                headers=response.headers,
                length=response.length_remaining,
                chunks=_chunks(response, exchange),
            )
        finally:
            response.close()  # a body read to its end has given its connection back before

    def _resolver(self, target: Target) -> Resolver:
        policy = self._policy
        return resolve if policy is None else lambda host, port: policy.resolve(target)

    def _answer(
        self, method: str, target: Target, exchange: Exchange, headers: Mapping[str, str], body: bytes | None
    ) -> BaseHTTPResponse:
        bounds = exchange.bounds
        left = bounds.left(target.host)
        with _translated(target.host), during(exchange):
            pool = self._manager.connection_from_host(target.host, target.port, target.scheme)
            return pool.urlopen(
                method,
                target.path,
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                assert_same_host=False,
                timeout=Timeout(connect=min(bounds.connect_timeout, left), read=min(bounds.read_timeout, left)),
                preload_content=False,
                decode_content=False,
            )


def _chunks(response: BaseHTTPResponse, exchange: Exchange) -> Iterator[bytes]:
    while True:
        with _translated(exchange.host):
            # ``read1``, not ``read``: that one loops until the chunk is full, which a slow server never does.
            chunk = response.read1(CHUNK_BYTES, decode_content=False)
        if not chunk:
            return
        yield chunk


@contextmanager
def _translated(host: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, OSError, ValueError) as error:
        # Only the kind of error: the texts of urllib3 may quote the URL.
        kind = type(error).__name__
        raise TransportError(f"The exchange with {host} broke off: {kind}.", detail=str(error)) from None


@cache
def trusted_context(bundle: str | None = None) -> ssl.SSLContext:
    """Trust the certificates of a bundle (a file or a folder).

    Without one: what the system trusts (``SSL_CERT_FILE`` included) and what certifi brings along. Raises `OSError`
    for a bundle that cannot be read.
    """
    if bundle is not None:
        is_folder = Path(bundle).is_dir()
        return ssl.create_default_context(cafile=None if is_folder else bundle, capath=bundle if is_folder else None)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
