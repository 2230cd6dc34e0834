"""Which URLs and addresses may be connected to: a foreign URL must not reach into our network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from akool_dagster.http.errors import RefusedAddressError

DEFAULT_PORTS = {"http": 80, "https": 443}

#: Behind an IPv6-only network's translator the last 32 bits are the IPv4 address reached (RFC 6052).
NAT64 = IPv6Network("64:ff9b::/96")

#: Special-purpose networks that the `ipaddress` of some supported Python calls global, and one address that is only
#: special where it matters: inside of Azure it is the platform's own service. (Oracle's is 192.0.0.192.)
NEVER_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "64:ff9b:1::/48",
        "2001::/23",
        "3fff::/20",
        "5f00::/16",
    )
)

Resolver = Callable[[str, int], Sequence[str]]


def resolve(host: str, port: int) -> tuple[str, ...]:
    """Return a host's addresses in the system's order of preference. Raises `OSError` when it has none."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(str(answer[4][0]) for answer in answers))


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL taken apart."""

    scheme: str
    host: str
    port: int
    path: str
    """Path and query, as they go into the request line."""


class AddressPolicy:
    """Only https on port 443 to public addresses, but for two kinds of host that may be anything.

    The two kinds are the configured API base, compared as scheme, host and port, so that an emulator on loopback
    works, and the ``allowed_hosts``, exact names. ``allowed_networks`` (CIDR) are addresses that may be private.
    """

    def __init__(
        self,
        api_base_url: str,
        allowed_hosts: Collection[str] = (),
        allowed_networks: Collection[str] = (),
        *,
        resolver: Resolver = resolve,
    ) -> None:
        base = parse_target(api_base_url)
        self._api_base = (base.scheme, base.host, base.port)
        self._allowed_hosts = frozenset(host.lower().rstrip(".") for host in allowed_hosts)
        self._allowed_networks = tuple(ipaddress.ip_network(network) for network in allowed_networks)
        self._resolver = resolver

    def check(self, url: str) -> Target:
        """Take a URL apart, without resolving its host. Raises `RefusedAddressError` for one that is refused."""
        target = parse_target(url)
        if not self._is_trusted(target):
            if target.scheme != "https":
                raise RefusedAddressError(f"{target.host} is refused: the URL is not https.")
            if target.port != DEFAULT_PORTS["https"]:
                raise RefusedAddressError(
                    f"{target.host} is refused: port {target.port} is not {DEFAULT_PORTS['https']}."
                )
        return target

    def resolve(self, target: Target) -> tuple[str, ...]:
        """Resolve a checked target's host and return the addresses that may be connected to.

        Raises `RefusedAddressError` for an address that is refused, and `OSError` when the name does not resolve at
        the moment. One refused address among several refuses the host: an attacker's name server mixes its answers.
        """
        try:
            addresses = tuple(self._resolver(target.host, target.port))
        except UnicodeError:
            raise RefusedAddressError("The URL's host is not a host name.") from None
        if not addresses:
            raise OSError(f"{target.host} has no address.")
        for address in addresses:
            is_allowed = any(_reached(address) in network for network in self._allowed_networks)
            if not (self._is_trusted(target) or is_public(address) or is_allowed):
                raise RefusedAddressError(
                    f"{target.host} is refused: {address} is not a public address. If it is yours, allow the host."
                )
        return addresses

    def _is_trusted(self, target: Target) -> bool:
        return (target.scheme, target.host, target.port) == self._api_base or target.host in self._allowed_hosts


def is_public(address: str) -> bool:
    """Return whether an IP address is an ordinary public one.

    Not private, loopback, link-local, shared (CGNAT), multicast, reserved or unspecified. An IPv6 address
    that stands for an IPv4 address is public if the IPv4 address is.
    """
    reached = _reached(address)
    return reached.is_global and not (
        reached.is_multicast
        or reached.is_reserved
        or getattr(reached, "is_site_local", False)
        or any(reached in network for network in NEVER_PUBLIC)
    )


def host_of(url: str) -> str:
    """Return a URL's host, as it is compared and shown; an empty text for what is no URL with a host."""
    try:
        return parse_target(url).host
    except RefusedAddressError:
        return ""


def _reached(address: str) -> IPv4Address | IPv6Address:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, IPv4Address):
        return parsed
    if parsed in NAT64:
        return IPv4Address(int(parsed) & 0xFFFFFFFF)
    tunnelled = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo and parsed.teredo[1])
    return tunnelled or parsed


def parse_target(url: str) -> Target:
    """Take an http or https URL apart. Raises `RefusedAddressError` for anything else, and for user information."""
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url):
        raise RefusedAddressError("The URL has a character in it that no URL has.")
    try:
        parsed = parse_url(url)
    except LocationParseError:
        raise RefusedAddressError("The URL cannot be understood.") from None
    scheme = parsed.scheme or ""
    if scheme not in DEFAULT_PORTS or not parsed.host:
        raise RefusedAddressError("The URL is not an http or https URL with a host.")
    if parsed.auth is not None:
        raise RefusedAddressError(f"{parsed.host} is refused: the URL has user information in it.")
    host = parsed.host.strip("[]").rstrip(".").lower()
    return Target(scheme=scheme, host=host, port=parsed.port or DEFAULT_PORTS[scheme], path=parsed.request_uri)
