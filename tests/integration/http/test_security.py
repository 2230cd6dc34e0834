"""Where connections go, who is believed to be at the other end, and what is sent there."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.api import AkoolClient, AkoolError, AkoolTransientError, ApiKey, ClientCredentials
from akool_dagster.base.clock import Deadline
from akool_dagster.http import addresses
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.errors import RefusedAddressError, TransportError
from akool_dagster.http.transport import HttpTransport, trusted_context
from akool_dagster.videos.download import HEADERS
from tests.api_server import Answer as ApiAnswer
from tests.api_server import ScriptedServer, serve
from tests.certificates import make_certificate, server_context
from tests.clock import FakeClock
from tests.video_server import Answer, VideoServer

KEY = ApiKey("S3CR3T-key")
CREDIT = "/api/open/v3/faceswap/quota/info"

api_server = pytest.fixture(serve)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("127.0.0.1", "api.example", "cdn.example", "allowed.example")
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem", *names)


@pytest.fixture(scope="module")
def another_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls") / "other.pem", "other.example")


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[VideoServer]:
    with VideoServer(ssl_context=server_context(certificate)) as server:
        server.serve(CREDIT, json.dumps({"code": 1000, "data": {"credit": 7}}).encode())
        server.serve("/v.mp4", b"video")
        yield server


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "PYTHONHTTPSVERIFY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    trusted_context.cache_clear()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Give every address that this process connects to from now on."""
    made: list[tuple[str, int]] = []
    connect = socket.socket.connect

    def recording(this: socket.socket, address: Any) -> None:
        made.append(address[:2])
        connect(this, address)

    monkeypatch.setattr(socket.socket, "connect", recording)
    return made


def credit(base_url: str, **options: Any) -> float:
    with AkoolClient(KEY, base_url=base_url, attempts=1, clock=FakeClock(), **options) as client:
        return client.credit()


def download(transport: HttpTransport, url: str) -> bytes:
    bounds = Bounds(deadline=Deadline(FakeClock(), 60))
    with closing(transport), transport.request("GET", url, bounds=bounds, headers=HEADERS, redirects=5) as response:
        return response.read(1000)


# --- who is believed ---

NOTHING: dict[str, str] = {}


@pytest.mark.parametrize(
    "environment",
    [
        NOTHING,
        {"PYTHONHTTPSVERIFY": "0"},
        {"REQUESTS_CA_BUNDLE": ""},
        {"CURL_CA_BUNDLE": "/nowhere/ca.pem"},
        {"SSL_CERT_FILE": "/nowhere/ca.pem", "SSL_CERT_DIR": "/nowhere"},
    ],
    ids=str,
)
def test_no_environment_makes_an_unknown_server_be_believed(
    tls_server: VideoServer, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AkoolError, match=r"CERTIFICATE_VERIFY_FAILED|REQUESTS_CA_BUNDLE"):
        credit(f"https://127.0.0.1:{tls_server.port}")
    policy = AddressPolicy("https://api.example", ["127.0.0.1"])
    with pytest.raises((TransportError, OSError)):
        download(HttpTransport(policy), f"https://127.0.0.1:{tls_server.port}/v.mp4")
    assert tls_server.requests == []


def test_a_ca_of_ones_own_is_believed_where_it_is_named(
    tls_server: VideoServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://127.0.0.1:{tls_server.port}"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert credit(url) == 7
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert download(HttpTransport(AddressPolicy(url)), f"{url}/v.mp4") == b"video"


def test_a_certificate_for_another_host_is_not_believed(
    another_certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(another_certificate))
    monkeypatch.setenv("SSL_CERT_FILE", str(another_certificate))
    with VideoServer(ssl_context=server_context(another_certificate)) as server:
        url = f"https://127.0.0.1:{server.port}"
        with pytest.raises(AkoolTransientError, match=r"certificate is not valid for|mismatch"):
            credit(url)
        with pytest.raises(TransportError, match="SSLError"):
            download(HttpTransport(AddressPolicy(url)), f"{url}/v.mp4")
    assert server.requests == []


# --- where the key goes ---


@pytest.mark.parametrize("host", ["api.example", ".example"])
def test_a_host_that_needs_no_proxy_is_not_asked_through_one(
    api_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("https_proxy", api_server.url)
    monkeypatch.setenv("no_proxy", host)
    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with pytest.raises(AkoolTransientError, match="could not be reached"):
        credit("https://api.example")
    assert api_server.seen == []


def no_such_host(*_: object, **__: object) -> None:
    raise socket.gaierror(socket.EAI_NONAME, "no such host")


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_nothing_on_this_machine_is_asked_through_a_proxy(
    api_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    api_server.script = [ApiAnswer({"code": 1000, "data": {"credit": 7}})]
    for proxy in serve():
        monkeypatch.setenv(variable, proxy.url)
        monkeypatch.setenv("no_proxy", "elsewhere.example")
        assert credit(api_server.url) == 7
        assert proxy.seen == []


@pytest.mark.parametrize("credentials", [KEY, ClientCredentials("S3CR3T-id", "S3CR3T-secret")], ids=["key", "pair"])
def test_neither_key_nor_pair_follows_a_redirect(
    api_server: ScriptedServer, credentials: ApiKey | ClientCredentials
) -> None:
    for elsewhere in serve():
        for status in (301, 302, 303, 307, 308):
            api_server.script = [ApiAnswer(status=status, headers={"Location": elsewhere.url})]
            with (
                AkoolClient(credentials, base_url=api_server.url) as client,
                pytest.raises(AkoolError, match="redirects"),
            ):
                client.credit()
        assert elsewhere.seen == []


# --- where a video comes from ---


@pytest.fixture
def public_port(tls_server: VideoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server's port be that of https, so that hosts nobody trusts can be served on loopback."""
    monkeypatch.setitem(addresses.DEFAULT_PORTS, "https", tls_server.port)


def resolving(*answers: Sequence[str]) -> Callable[[str, int], Sequence[str]]:
    waiting = list(answers)
    return lambda host, port: waiting.pop(0) if len(waiting) > 1 else waiting[0]


def open_policy(resolver: Callable[[str, int], Sequence[str]]) -> AddressPolicy:
    """Only 127.0.0.1 counts as public; any other address of loopback stays an inner one."""
    return AddressPolicy("https://api.example:1", allowed_networks=["127.0.0.1/32"], resolver=resolver)


@pytest.fixture
def believing(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


@pytest.mark.usefixtures("public_port")
def test_a_name_that_is_rebound_after_the_check_leads_nowhere_else(
    tls_server: VideoServer,
    believing: ssl.SSLContext,
    connections: list[tuple[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostbyname", no_such_host)
    asked: list[str] = []
    rebound = resolving(["127.0.0.1"], ["127.0.0.2"])

    def resolver(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return rebound(host, port)

    transport = HttpTransport(open_policy(resolver), ssl_context=believing)
    assert download(transport, "https://cdn.example/v.mp4") == b"video"
    assert asked == ["cdn.example"]
    assert connections == [("127.0.0.1", tls_server.port)]
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.2"):
        download(HttpTransport(open_policy(resolver), ssl_context=believing), "https://cdn.example/v.mp4")
    assert connections == [("127.0.0.1", tls_server.port)]


@pytest.mark.usefixtures("public_port")
def test_a_redirect_of_a_rebound_name_to_itself_is_refused_on_a_new_connection(
    tls_server: VideoServer, believing: ssl.SSLContext, connections: list[tuple[str, int]]
) -> None:
    tls_server.answers["/moved"] = Answer(status=302, headers={"Location": "/v.mp4"}, length=None)
    transport = HttpTransport(open_policy(resolving(["127.0.0.1"], ["127.0.0.2"])), ssl_context=believing)
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.2"):
        download(transport, "https://cdn.example/moved")
    assert connections == [("127.0.0.1", tls_server.port)]
    assert [path for path, _ in tls_server.requests] == ["/moved"]


INNER_PLACES = [
    "https://10.0.0.1/v.mp4",
    "http://169.254.169.254/latest/meta-data/",
    "https://[::ffff:127.0.0.2]/",
    "//127.0.0.2/v.mp4",
    "\\\\127.0.0.2/v.mp4",
    "https://user:S3CR3T@cdn.example/v.mp4",
    "http://cdn.example/v.mp4",
    "https://cdn.example:22/v.mp4",
    "FILE:///etc/passwd",
    "https://[",
    "https://2130706434/",
]


@pytest.mark.usefixtures("public_port")
@pytest.mark.parametrize("start", ["cdn.example", "api.example", "allowed.example"])
def test_no_redirect_reaches_inside_whoever_sends_it(
    tls_server: VideoServer, believing: ssl.SSLContext, connections: list[tuple[str, int]], start: str
) -> None:
    """A host that anybody may have, the API's own, and one that the configuration allows."""

    def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host.endswith(".example") else addresses.resolve(host, port)

    policy = AddressPolicy(
        f"https://api.example:{tls_server.port}", ["allowed.example"], ["127.0.0.1/32"], resolver=resolver
    )
    for location in INNER_PLACES:
        tls_server.answers["/moved"] = Answer(status=302, headers={"Location": location})
        with pytest.raises(RefusedAddressError):
            download(HttpTransport(policy, ssl_context=believing), f"https://{start}/moved")
    assert set(connections) == {("127.0.0.1", tls_server.port)}
    assert len(tls_server.requests) == len(INNER_PLACES)
