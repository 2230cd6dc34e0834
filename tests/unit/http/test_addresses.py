from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.http.addresses import AddressPolicy, Target, is_public
from akool_dagster.http.errors import RefusedAddressError

PUBLIC = "93.184.216.34"
API = "https://openapi.akool.com"

INNER_NETWORKS = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
INNER_V6_NETWORKS = ["::1/128", "::/128", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001:db8::/32"]
inner_v4 = st.one_of([st.ip_addresses(v=4, network=network) for network in INNER_NETWORKS])
inner_v6 = st.one_of([st.ip_addresses(v=6, network=network) for network in INNER_V6_NETWORKS])


def policy(*addresses: str, api: str = API, hosts: Sequence[str] = (), networks: Sequence[str] = ()) -> AddressPolicy:
    return AddressPolicy(api, hosts, networks, resolver=lambda host, port: addresses or (PUBLIC,))


def checked(mine: AddressPolicy, url: str) -> tuple[Target, tuple[str, ...]]:
    """Check a URL and then its host's addresses, as a new connection does."""
    target = mine.check(url)
    return target, mine.resolve(target)


@given(inner_v4)
def test_no_inner_address_is_public_however_it_is_written(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    assert not is_public(str(address))
    assert not is_public(f"::ffff:{address}")
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80))))
    assert not is_public(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number)))


@given(inner_v6)
def test_no_inner_ipv6_address_is_public(address: ipaddress.IPv6Address) -> None:
    assert not is_public(str(address))


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2600:9000:2000::1", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_an_ordinary_address_is_public(address: str) -> None:
    assert is_public(address)


@given(inner_v4 | inner_v6)
def test_one_inner_address_among_public_ones_refuses_the_host(address: ipaddress.IPv4Address) -> None:
    with pytest.raises(RefusedAddressError, match="not a public address"):
        checked(policy(PUBLIC, str(address)), "https://cdn.example/a.mp4")


def test_a_public_https_url_is_taken_apart() -> None:
    target, addresses = checked(policy(PUBLIC, "8.8.8.8"), "https://CDN.example/a%20b.mp4?v=1#t=3")
    assert target == Target(scheme="https", host="cdn.example", port=443, path="/a%20b.mp4?v=1")
    assert addresses == (PUBLIC, "8.8.8.8")


@pytest.mark.parametrize(
    "url",
    [
        "http://cdn.example/a.mp4",
        "https://cdn.example:8443/a.mp4",
        "https://cdn.example:22/a.mp4",
        "https://user:hunter2@cdn.example/a.mp4",
        "https://user@cdn.example/a.mp4",
        "ftp://cdn.example/a.mp4",
        "file:///etc/passwd",
        "//cdn.example/a.mp4",
        "https:///a.mp4",
        "https://cdn.example:99999999/a.mp4",
        "https://cdn.example\\@inner/a.mp4",
        "https://cdn.example/a\r\nHost: inner",
        "https://cdn .example/a",
        "data:video/mp4;base64,AAAA",
        "cdn.example/a.mp4",
        "",
    ],
)
def test_a_url_of_another_kind_is_refused_without_quoting_secrets(url: str) -> None:
    with pytest.raises(RefusedAddressError) as caught:
        policy().check(url)
    assert "hunter2" not in str(caught.value)


def test_the_refusal_does_not_quote_the_query() -> None:
    with pytest.raises(RefusedAddressError) as caught:
        checked(policy("10.0.0.1"), "https://cdn.example/a.mp4?signature=hunter2")
    assert "cdn.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)


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
        with pytest.raises(RefusedAddressError):
            checked(mine, f"https://{host}/a.mp4")


def test_an_allowed_network_opens_its_addresses_but_not_plain_http() -> None:
    mine = policy("10.1.2.3", networks=["10.1.0.0/16"])
    assert checked(mine, "https://cdn.example/a.mp4")[1] == ("10.1.2.3",)
    with pytest.raises(RefusedAddressError):
        checked(mine, "http://cdn.example/a.mp4")
    with pytest.raises(RefusedAddressError):
        checked(policy("10.2.2.3", networks=["10.1.0.0/16"]), "https://cdn.example/a.mp4")


def test_an_impossible_host_name_is_refused() -> None:
    def resolver(host: str, port: int) -> Sequence[str]:
        raise UnicodeError("label too long")

    with pytest.raises(RefusedAddressError):
        checked(AddressPolicy(API, resolver=resolver), "https://cdn.example/a.mp4")


@given(st.text(max_size=30))
def test_no_path_or_query_breaks_out_of_the_request_line(text: str) -> None:
    try:
        target = policy().check(f"https://cdn.example/{text}")
    except RefusedAddressError:
        return
    assert target.host == "cdn.example"
    assert target.path.startswith("/")
    assert target.path.isascii()
    assert not any(character.isspace() for character in target.path)
