"""Where connections go, who is believed to be at the other end, and what is sent there."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.api import AkoolClient, AkoolError, AkoolTransientError, ApiKey, ClientCredentials
from akool_dagster.base.clock import Deadline, SystemClock
from akool_dagster.http import addresses
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.errors import RefusedAddressError, TransportError
from akool_dagster.http.transport import HttpTransport, trusted_context
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.download import HEADERS
from akool_dagster.videos.fetch import Outcome, VideoRequest, fetch_videos
from akool_dagster.videos.refresh import AkoolSays, Refreshed
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
        {"CURL_CA_BUNDLE": ""},
        {"REQUESTS_CA_BUNDLE": "/nowhere/ca.pem"},
        {"CURL_CA_BUNDLE": "/nowhere/ca.pem"},
        {"SSL_CERT_FILE": ""},
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


def tunnel_to(port: int, passed: list[bytes]) -> ApiAnswer:
    """What a proxy does after CONNECT, with a copy of every byte."""

    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with socket.create_connection(("127.0.0.1", port), timeout=10) as upstream:
            handler.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

            def copy(source: socket.socket, sink: socket.socket) -> None:
                with suppress(OSError):
                    while data := source.recv(65536):
                        passed.append(data)
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)

            back = threading.Thread(target=copy, args=(upstream, handler.connection))
            back.start()
            copy(handler.connection, upstream)
            back.join(10)

    return ApiAnswer(act=act)


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_on_the_way_sees_neither_the_key_nor_what_netrc_has(
    api_server: ScriptedServer,
    tls_server: VideoServer,
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login S3CR3T password S3CR3T\nmachine api.example login a password S3CR3T\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv(variable, api_server.url)
    passed: list[bytes] = []
    api_server.script = [tunnel_to(tls_server.port, passed)]
    assert credit("https://api.example") == 7
    (request,) = api_server.seen
    assert (request.method, request.path) == ("CONNECT", "api.example:443")
    assert not [name for name in request.headers if name not in ("host", "user-agent", "proxy-connection", "accept")]
    assert len(b"".join(passed)) > 500
    assert b"S3CR3T" not in b"".join(passed)
    (asked, headers) = tls_server.requests[0]
    assert (asked, headers["x-api-key"]) == (CREDIT, KEY.value)
    assert "authorization" not in headers


@pytest.mark.parametrize("host", ["api.example", ".example", "*"])
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


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_nothing_on_this_machine_is_asked_through_a_proxy(
    api_server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    api_server.script = [ApiAnswer({"code": 1000, "data": {"credit": 7}})]
    for proxy in serve():
        monkeypatch.setenv(variable, proxy.url)
        monkeypatch.setenv("no_proxy", "elsewhere.example")
        assert credit(api_server.url) == 7
        assert proxy.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("credentials", [KEY, ClientCredentials("S3CR3T-id", "S3CR3T-secret")], ids=["key", "pair"])
def test_neither_key_nor_pair_follows_a_redirect(
    api_server: ScriptedServer, status: int, credentials: ApiKey | ClientCredentials
) -> None:
    for elsewhere in serve():
        api_server.script = [ApiAnswer(status=status, headers={"Location": elsewhere.url})]
        with AkoolClient(credentials, base_url=api_server.url) as client, pytest.raises(AkoolError, match="redirects"):
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
    "https://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "https://[fd00:ec2::254]/",
    "https://[::ffff:127.0.0.2]/",
    "//127.0.0.2/v.mp4",
    "\\\\127.0.0.2/v.mp4",
    "http://127.0.0.1:1/v.mp4",
    "https://user:S3CR3T@cdn.example/v.mp4",
    "http://cdn.example/v.mp4",
    "https://cdn.example:22/v.mp4",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "gopher://127.0.0.1/_x",
    "data:video/mp4;base64,AAAA",
    "https://[",
    "https://[::1",
    "http://127.1:8080/",
    "https://2130706434/",
]


@pytest.mark.usefixtures("public_port")
@pytest.mark.parametrize("location", INNER_PLACES)
@pytest.mark.parametrize("start", ["cdn.example", "api.example", "allowed.example"])
def test_no_redirect_reaches_inside_whoever_sends_it(
    tls_server: VideoServer,
    believing: ssl.SSLContext,
    connections: list[tuple[str, int]],
    start: str,
    location: str,
) -> None:
    """A host that anybody may have, the API's own, and one that the configuration allows."""
    tls_server.answers["/moved"] = Answer(status=302, headers={"Location": location})

    def resolver(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host.endswith(".example") else addresses.resolve(host, port)

    policy = AddressPolicy(
        f"https://api.example:{tls_server.port}", ["allowed.example"], ["127.0.0.1/32"], resolver=resolver
    )
    with pytest.raises(RefusedAddressError):
        download(HttpTransport(policy, ssl_context=believing), f"https://{start}/moved")
    assert connections == [("127.0.0.1", tls_server.port)]


def head(text: bytes, times: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + text * times + b"\r\nvideo"


@pytest.mark.parametrize(
    ("text", "times"), [(b"X-Many: x\r\n", 500), (b"X-Long: " + b"x" * 100_000 + b"\r\n", 1)], ids=["many", "long"]
)
def test_the_head_of_a_videos_answer_has_a_limit(text: bytes, times: int) -> None:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(head(text, times))

    for server in serve():
        server.script = [ApiAnswer(act=act)]
        with pytest.raises(TransportError, match="broke off"):
            download(HttpTransport(AddressPolicy(server.url)), f"{server.url}/v.mp4")


def test_an_error_that_nobody_foresaw_is_logged_without_the_signature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(host: str, port: int) -> Sequence[str]:
        raise RuntimeError(f"while asking for https://user:S3CR3T@{host}/v.mp4?Signature=S3CR3T")

    outcomes: list[Outcome] = []
    url = "https://cdn.example/v.mp4?Signature=S3CR3T"
    fetch_videos(
        [VideoRequest(job_id="a" * 24, source_url=url, expires_at_ms=2**42, partition_at_ms=0)],
        root=StorageRoot(str(tmp_path)),
        folder="akool/videos",
        policy=AddressPolicy("https://api.example", resolver=broken),
        time_budget=Deadline(SystemClock(), 60),
        refresh=lambda job_id, url, deadline: Refreshed(says=AkoolSays.NO_ROW),
        on_outcome=outcomes.append,
        clock=SystemClock(),
    )
    assert "RuntimeError: while asking for https://cdn.example/v.mp4" in caplog.text
    assert "S3CR3T" not in caplog.text + repr(outcomes)
