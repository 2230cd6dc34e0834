"""Which URLs and addresses may be connected to: every way to write an address that a URL should not reach."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from akool_dagster.http.addresses import AddressPolicy, Target, is_public, resolve
from akool_dagster.http.errors import RefusedAddressError
from tests.thoroughness import thorough

PUBLIC = "93.184.216.34"
API = "https://openapi.akool.com"

INNER_NETWORKS = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
]
INNER_V6_NETWORKS = [
    *("::1/128", "::/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001:db8::/32", "100::/64"),
]
inner_v4 = st.one_of([st.ip_addresses(v=4, network=network) for network in INNER_NETWORKS])
inner_v6 = st.one_of([st.ip_addresses(v=6, network=network) for network in INNER_V6_NETWORKS])


def numeric(host: str, port: int) -> Sequence[str]:
    """Resolve what is an address in some notation, as the C library does; ask no name server."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(answer[4][0]) for answer in answers]


def policy(*addresses: str, api: str = API, hosts: Sequence[str] = (), networks: Sequence[str] = ()) -> AddressPolicy:
    return AddressPolicy(api, hosts, networks, resolver=lambda host, port: addresses or (PUBLIC,))


NUMERIC = AddressPolicy(API, resolver=numeric)


def checked(mine: AddressPolicy, url: str) -> tuple[Target, tuple[str, ...]]:
    """Check a URL and then its host's addresses, as a new connection does."""
    target = mine.check(url)
    return target, mine.resolve(target)


# Addresses


def numerals(number: int) -> Iterator[str]:
    """Yield a number as C reads it: decimal, octal, hexadecimal, with zeros in front."""
    yield from (str(number), f"0{number:o}", f"0x{number:x}", f"0X{number:X}", f"000{number:o}", f"0x00{number:x}")


def notations(address: ipaddress.IPv4Address) -> list[str]:
    """Return an address in one, two, three and four parts, each part in every notation."""
    a, b, c, d = address.packed
    splits = [[int(address)], [a, int(address) & 0xFFFFFF], [a, b, int(address) & 0xFFFF], [a, b, c, d]]
    columns = [[list(numerals(part)) for part in split] for split in splits]
    return [".".join(column[style] for column in split) for split in columns for style in range(6)]


def in_ipv6(address: ipaddress.IPv4Address) -> Iterator[str]:
    """Yield the IPv6 addresses that stand for an IPv4 address."""
    number = int(address)
    for prefix in ("::ffff:0:0", "64:ff9b::", "64:ff9b:1::", "::"):  # mapped, NAT64 twice, compatible
        yield str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number))
    yield str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))  # 6to4
    yield str(ipaddress.IPv6Address((0x20010000 << 96) | (0x5DB8D822 << 64) | (number ^ 0xFFFFFFFF)))  # Teredo


@given(inner_v4)
@settings(max_examples=thorough(15, 1000))
def test_an_inner_ipv4_address_is_refused_in_every_notation_and_inside_every_ipv6_address(
    address: ipaddress.IPv4Address,
) -> None:
    inside = list(in_ipv6(address))
    assert not any(map(is_public, (str(address), *inside)))
    hosts = notations(address) + [f"[{written}]" for written in (*inside, f"::ffff:{address}")]
    for ending in ("", ".", ":443"):
        for host in hosts:
            with pytest.raises((RefusedAddressError, OSError)):
                checked(NUMERIC, f"https://{host}{ending}/v.mp4")


def test_the_notations_mean_what_they_say() -> None:
    """Else the test above would pass for names that nobody knows."""
    understood = 0
    for host in notations(ipaddress.IPv4Address("127.0.0.1")):
        try:
            understood += list(numeric(host, 443)) == ["127.0.0.1"]
        except OSError:
            continue
    assert understood >= 20


@given(inner_v6)
@settings(max_examples=thorough(50, 1000))
def test_no_inner_ipv6_address_is_public(address: ipaddress.IPv6Address) -> None:
    assert not is_public(str(address))


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2600:9000:2000::1", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_an_ordinary_address_is_public(address: str) -> None:
    assert is_public(address)


@given(inner_v4 | inner_v6)
@settings(max_examples=thorough(20, 500))
def test_one_inner_address_among_public_ones_refuses_the_host(address: ipaddress.IPv4Address) -> None:
    with pytest.raises(RefusedAddressError, match="not a public address"):
        checked(policy(PUBLIC, str(address)), "https://cdn.example/a.mp4")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "localhost..", "127.0.0.1."])
def test_the_names_of_this_machine_are_refused_by_the_machines_resolver(host: str) -> None:
    with pytest.raises((RefusedAddressError, OSError)):
        checked(AddressPolicy(API, resolver=resolve), f"https://{host}/v.mp4")


# URLs


def test_a_public_https_url_is_taken_apart() -> None:
    target, addresses = checked(policy(PUBLIC, "8.8.8.8"), "https://CDN.example/a%20b.mp4?v=1#t=3")
    assert target == Target(scheme="https", host="cdn.example", port=443, path="/a%20b.mp4?v=1")
    assert addresses == (PUBLIC, "8.8.8.8")


@pytest.mark.parametrize(
    "url",
    [
        *("http://cdn.example/a.mp4", "https://cdn.example:8443/a.mp4", "https://cdn.example:22/a.mp4"),
        *("https://user:hunter2@cdn.example/a.mp4", "https://user@cdn.example/a.mp4", "cdn.example/a.mp4", ""),
        *("https:///a.mp4", "https://cdn.example:99999999/a.mp4", "https://cdn.example\\@inner/a.mp4", "https:,AAAA"),
        *("https://cdn.example/a\r\nHost: inner", "https://cdn .example/a", "data:video/mp4;base64,AAAA"),
        *(f"{kind}://cdn.example/v.mp4" for kind in ("file", "gopher", "ftp", "dict", "s3", "wss", "httpss", "HTTPS ")),
        *(f"{kind}:///etc/passwd" for kind in ("file", "https", "jar", "")),
    ],
)
def test_a_url_of_another_kind_is_refused_without_quoting_secrets(url: str) -> None:
    with pytest.raises(RefusedAddressError) as caught:
        policy().check(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "authority",
    [
        *("①②⑦.⓪.⓪.①", "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127。0。0。1", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ"),
        *("cdn.example@127.0.0.1", "cdn.example:443@127.0.0.1", "cdn.example%40127.0.0.1", "cdn.example\\@127.0.0.1"),
        *("127.0.0.1\\@cdn.example", "127.0.0.1#@cdn.example", "127.0.0.1?@cdn.example", "127.0.0.1;@cdn.example"),
        *("/127.0.0.1", "\\\\127.0.0.1\\v.mp4", "127.0.0.1:443:443", "127.0.0.1%00.cdn.example", "127.0.0.1\t"),
        *("127.0.0.1%2f.cdn.example", "[::1]@cdn.example:22", "[127.0.0.1]", ".", "..", ":443", "@"),
        *("[fe80::1%25lo]", "[fe80::1%lo]", "[::ffff:0:127.0.0.1]", "[v1.x]", "[1::2::3]", "[]", "[::1"),
    ],
)
def test_no_trick_with_the_authority_reaches_this_machine(authority: str) -> None:
    with pytest.raises((RefusedAddressError, OSError)):
        checked(NUMERIC, f"https://{authority}/v.mp4")


@given(st.text(max_size=40), st.sampled_from(["https://{}", "https://cdn.example/{}", "https://{}@cdn.example/", "{}"]))
@example("127.0.0.1", "https://{}/v.mp4")
@settings(max_examples=thorough(100, 2000))
def test_whatever_is_written_the_checked_addresses_are_public_and_the_path_fits_in_a_request_line(
    text: str, form: str
) -> None:
    asked: list[str] = []

    def lying(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        try:
            return numeric(host, port)
        except OSError:
            return [PUBLIC]

    try:
        target, addresses = checked(AddressPolicy(API, resolver=lying), form.format(text))
    except RefusedAddressError:
        return
    assert addresses
    assert all(map(is_public, addresses))
    assert (target.scheme, target.port, asked) == ("https", 443, [target.host])
    assert target.path.startswith("/")
    assert target.path.isascii()
    assert not any(character.isspace() for character in target.path)


# Exceptions


def test_the_api_base_may_be_http_on_loopback_at_its_own_port_only() -> None:
    emulator = policy("127.0.0.1", api="http://127.0.0.1:8123")
    assert checked(emulator, "http://127.0.0.1:8123/cdn/a.mp4")[1] == ("127.0.0.1",)
    for url in ("http://127.0.0.1:8124/a", "https://127.0.0.1:8123/a", "http://127.0.0.1/a", "http://localhost:8123/a"):
        with pytest.raises(RefusedAddressError):
            checked(emulator, url)


def test_an_allowed_host_may_be_anything_and_its_namesakes_nothing() -> None:
    mine = policy("10.0.0.1", hosts=["CDN.example"])
    assert checked(mine, "http://cdn.example.:8080/a.mp4")[0].port == 8080
    for host in ("xcdn.example", "cdn.example.org", "a.cdn.example"):
        with pytest.raises(RefusedAddressError, match=host) as caught:
            checked(mine, f"https://{host}/a.mp4?signature=hunter2")
        assert "hunter2" not in str(caught.value)


def test_an_allowed_network_opens_its_addresses_but_not_plain_http() -> None:
    mine = policy("10.1.2.3", networks=["10.1.0.0/16"])
    assert checked(mine, "https://cdn.example/a.mp4")[1] == ("10.1.2.3",)
    with pytest.raises(RefusedAddressError):
        checked(mine, "http://cdn.example/a.mp4")
    with pytest.raises(RefusedAddressError):
        checked(policy("10.2.2.3", networks=["10.1.0.0/16"]), "https://cdn.example/a.mp4")


@pytest.mark.parametrize(("answer", "error"), [(UnicodeError("label too long"), RefusedAddressError), (None, OSError)])
def test_an_impossible_or_unknown_host_name_has_no_address(answer: UnicodeError | None, error: type[Exception]) -> None:
    def resolver(host: str, port: int) -> Sequence[str]:
        if answer is not None:
            raise answer
        return []

    with pytest.raises(error):
        checked(AddressPolicy(API, resolver=resolver), "https://cdn.example/a.mp4")
