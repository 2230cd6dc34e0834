"""Every way to write an address that a URL should not reach, against the machine's own resolver and a lying one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from akool_dagster.http.addresses import AddressPolicy, is_public, resolve
from akool_dagster.http.errors import RefusedAddressError
from tests.unit.http.test_addresses import checked

API = "https://openapi.akool.com"
PUBLIC = "93.184.216.34"

INNER = st.sampled_from(
    [
        *("127.0.0.1", "127.255.255.254", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0"),  # noqa: S104
        *("100.100.100.200", "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "168.63.129.16"),
    ]
).map(ipaddress.IPv4Address)


def numerals(number: int) -> Iterator[str]:
    """Yield a number as C reads it: decimal, octal, hexadecimal, with zeros in front."""
    yield from (str(number), f"0{number:o}", f"0x{number:x}", f"0X{number:X}", f"000{number:o}", f"0x00{number:x}")


def notations(address: ipaddress.IPv4Address) -> list[str]:
    """Return an address in one, two, three and four parts, each part in every notation."""
    a, b, c, d = address.packed
    splits = [[int(address)], [a, int(address) & 0xFFFFFF], [a, b, int(address) & 0xFFFF], [a, b, c, d]]
    columns = [[list(numerals(part)) for part in split] for split in splits]
    return [".".join(column[style] for column in split) for split in columns for style in range(6)]


def numeric(host: str, port: int) -> Sequence[str]:
    """Resolve what is an address in some notation, as the C library does; ask no name server."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(answer[4][0]) for answer in answers]


def refused(url: str, policy: AddressPolicy | None = None) -> None:
    """Require that a URL leads nowhere: refused, or a name that no resolver knows."""
    with pytest.raises((RefusedAddressError, OSError)):
        checked(policy or AddressPolicy(API, resolver=numeric), url)


@given(INNER)
def test_an_inner_ipv4_address_is_refused_in_every_notation(address: ipaddress.IPv4Address) -> None:
    for host in notations(address):
        for written in (host, f"{host}.", f"{host}:443"):
            refused(f"https://{written}/v.mp4")


def test_the_notations_mean_what_they_say() -> None:
    """Else the test above would pass for names that nobody knows."""
    understood = 0
    for host in notations(ipaddress.IPv4Address("127.0.0.1")):
        try:
            understood += list(numeric(host, 443)) == ["127.0.0.1"]
        except OSError:
            continue
    assert understood >= 20


def in_ipv6(address: ipaddress.IPv4Address) -> Iterator[ipaddress.IPv6Address]:
    """Yield the IPv6 addresses that stand for an IPv4 one."""
    number = int(address)
    for prefix in ("::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "::"):  # mapped, NAT64 twice, compatible
        yield ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number)
    yield ipaddress.IPv6Address((0x2002 << 112) | (number << 80))  # 6to4
    yield ipaddress.IPv6Address((0x20010000 << 96) | (0x5DB8D822 << 64) | (number ^ 0xFFFFFFFF))  # Teredo


@given(INNER)
def test_an_inner_ipv4_address_is_refused_inside_an_ipv6_one(address: ipaddress.IPv4Address) -> None:
    for inside in in_ipv6(address):
        assert not is_public(str(inside)), inside
        for written in (str(inside), inside.exploded, inside.exploded.upper(), f"::ffff:{address}"):
            refused(f"https://[{written}]/v.mp4")


@pytest.mark.parametrize(
    "host",
    [
        "::1",
        "::",
        "0:0:0:0:0:0:0:1",
        "fe80::1",
        "fe80::1%25lo",
        "fe80::1%lo",
        "febf::1",
        "fec0::1",
        "fc00::1",
        "fdff::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "100::1",
        "::ffff:7f00:1",
        "::ffff:0:127.0.0.1",
        "v1.x",
        "1::2::3",
        "",
    ],
)
def test_an_inner_or_impossible_ipv6_address_is_refused(host: str) -> None:
    refused(f"https://[{host}]/v.mp4")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "localhost..", "ip6-localhost", "127.0.0.1."])
def test_the_names_of_this_machine_are_refused_by_the_machines_resolver(host: str) -> None:
    refused(f"https://{host}/v.mp4", AddressPolicy(API, resolver=resolve))


@pytest.mark.parametrize(
    "url",
    [
        "https://①②⑦.⓪.⓪.①/v.mp4",
        "https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/v.mp4",
        "https://127。0。0。1/v.mp4",
        "https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/v.mp4",
        "https://cdn.example@127.0.0.1/v.mp4",
        "https://cdn.example:443@127.0.0.1/v.mp4",
        "https://cdn.example%40127.0.0.1/v.mp4",
        "https://cdn.example\\@127.0.0.1/v.mp4",
        "https://127.0.0.1\\@cdn.example/v.mp4",
        "https://127.0.0.1#@cdn.example/v.mp4",
        "https://127.0.0.1?@cdn.example/v.mp4",
        "https://127.0.0.1;@cdn.example/v.mp4",
        "https:/127.0.0.1/v.mp4",
        "https:127.0.0.1/v.mp4",
        "https:///127.0.0.1/v.mp4",
        "https:\\\\127.0.0.1\\v.mp4",
        "https://127.0.0.1:443:443/v.mp4",
        "https://127.0.0.1%00.cdn.example/v.mp4",
        "https://127.0.0.1%2f.cdn.example/v.mp4",
        "https://127.0.0.1\t/v.mp4",
        "ht\ntps://127.0.0.1/v.mp4",
        "https://[::1]@cdn.example:22/v.mp4",
        "https://[127.0.0.1]/v.mp4",
        "https://./v.mp4",
        "https://../v.mp4",
        "https://:443/v.mp4",
        "https://@/v.mp4",
    ],
)
def test_no_trick_with_the_authority_reaches_this_machine(url: str) -> None:
    refused(url)


@pytest.mark.parametrize(
    "scheme",
    ["file", "gopher", "data", "ftp", "dict", "ldap", "jar", "javascript", "s3", "ws", "wss", "httpss", "", "HTTPS "],
)
@pytest.mark.parametrize(
    "rest", ["//cdn.example/v.mp4", "///etc/passwd", "/etc/passwd", ",AAAA", "//127.0.0.1:70/_GET"]
)
def test_only_http_and_https_are_schemes(scheme: str, rest: str) -> None:
    with pytest.raises(RefusedAddressError):
        checked(AddressPolicy(API, resolver=lambda host, port: [PUBLIC]), f"{scheme}:{rest}")


@pytest.mark.parametrize("port", [1, 22, 25, 80, 6379, 8443, 65535])
def test_no_other_port_than_that_of_https_is_reached(port: int) -> None:
    with pytest.raises(RefusedAddressError, match="port"):
        checked(AddressPolicy(API, resolver=lambda host, port: [PUBLIC]), f"https://cdn.example:{port}/v.mp4")


@given(st.text(max_size=40), st.sampled_from(["https://{}", "https://{}/v.mp4", "https://{}@cdn.example/", "{}"]))
@example("127.0.0.1", "https://{}/v.mp4")
def test_whatever_is_written_the_checked_addresses_are_public(text: str, form: str) -> None:
    url = form.format(text)
    asked: list[str] = []

    def lying(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        try:
            return numeric(host, port)
        except OSError:
            return [PUBLIC]

    try:
        target, addresses = checked(AddressPolicy(API, resolver=lying), url)
    except RefusedAddressError:
        return
    assert all(is_public(address) for address in addresses)
    assert (target.scheme, target.port, asked) == ("https", 443, [target.host])
    assert addresses


def test_a_resolver_that_finds_nothing_is_as_good_as_none() -> None:
    with pytest.raises(OSError, match="no address"):
        checked(AddressPolicy(API, resolver=lambda host, port: []), "https://cdn.example/v.mp4")
