"""Exchanges with real servers: what is sent, where to, and how every wait ends."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.base.clock import Deadline
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.errors import TooLargeError, TooManyRedirectsError, TransportError
from akool_dagster.http.transport import HttpResponse, HttpTransport
from akool_dagster.videos.download import HEADERS
from tests.certificates import make_certificate, server_context
from tests.clock import FakeClock
from tests.video_server import Answer, VideoServer


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with VideoServer() as server:
        yield server


@pytest.fixture
def transport(server: VideoServer) -> Iterator[HttpTransport]:
    transport = HttpTransport(AddressPolicy(server.base_url))
    yield transport
    transport.close()


def get(transport: HttpTransport, url: str, limits: Bounds | None = None) -> AbstractContextManager[HttpResponse]:
    limits = limits or Bounds(deadline=Deadline(FakeClock(), 60.0))
    return transport.request("GET", url, bounds=limits, headers=HEADERS, redirects=5)


def body(transport: HttpTransport, url: str) -> bytes:
    with get(transport, url) as response:
        assert response.status == 200
        return b"".join(response.chunks)


@pytest.mark.parametrize("options", [{}, {"chunked": True}, {"length": None}])
def test_a_body_arrives_whole(options: dict[str, bool | None], server: VideoServer, transport: HttpTransport) -> None:
    content = bytes(range(256)) * 20_000
    assert body(transport, server.serve("/a.mp4", content, **options)) == content


def test_two_hundred_files_come_over_one_connection(server: VideoServer, transport: HttpTransport) -> None:
    url = server.serve("/a.mp4", b"video")
    assert {body(transport, url) for _ in range(200)} == {b"video"}
    assert server.connections == 1


def test_nothing_but_the_url_goes_to_the_server(
    server: VideoServer, transport: HttpTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    server.serve("/a.mp4", b"video", headers={"Set-Cookie": "a=b"})
    for _ in range(2):
        body(transport, server.url("/a.mp4?v=1"))
    asked, headers = server.requests[-1]
    assert asked == "/a.mp4?v=1"
    assert headers == {
        "host": f"127.0.0.1:{server.port}",
        "accept": "video/*, */*",
        "accept-encoding": "identity",
        "user-agent": "akool-dagster",
    }


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status: int, server: VideoServer, transport: HttpTransport) -> None:
    server.serve("/b.mp4", b"video")
    server.serve("/a.mp4", b"moved", status=status, headers={"Location": "/b.mp4?x=1"})
    assert body(transport, server.url("/a.mp4")) == b"video"
    assert server.requests[-1][0] == "/b.mp4?x=1"


def test_five_redirects_are_followed_and_a_loop_ends(server: VideoServer, transport: HttpTransport) -> None:
    server.serve("/5", b"video")
    for step in range(5):
        server.serve(f"/{step}", b"", status=302, headers={"Location": f"/{step + 1}"})
    assert body(transport, server.url("/0")) == b"video"
    server.serve("/loop", b"", status=302, headers={"Location": "/loop"})
    with pytest.raises(TooManyRedirectsError):
        body(transport, server.url("/loop"))
    assert server.count("/loop") == 6


def test_an_address_that_does_not_answer_is_passed_over_for_the_next(server: VideoServer) -> None:
    policy = AddressPolicy(
        "https://api.example", ["cdn.example"], resolver=lambda host, port: ["127.0.0.2", "127.0.0.1"]
    )
    transport = HttpTransport(policy)
    server.serve("/a.mp4", b"video")
    assert body(transport, f"http://cdn.example:{server.port}/a.mp4") == b"video"
    transport.close()


def test_a_name_that_does_not_resolve_is_an_error() -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    transport = HttpTransport(AddressPolicy("https://api.example", resolver=resolver))
    with pytest.raises(TransportError):
        body(transport, "https://cdn.example/a.mp4")
    transport.close()


def test_the_error_of_a_refused_connection_quotes_no_url() -> None:
    with VideoServer() as server:
        url = server.url("/a.mp4?signature=hunter2")
        base = server.base_url
    transport = HttpTransport(AddressPolicy(base))
    with pytest.raises(TransportError) as caught:
        body(transport, url)
    assert "hunter2" not in str(caught.value) + caught.value.detail
    transport.close()


def test_a_body_that_ends_early_is_an_error(server: VideoServer, transport: HttpTransport) -> None:
    server.serve("/a.mp4", b"video", length=100)
    with pytest.raises(TransportError):
        body(transport, server.url("/a.mp4"))


def test_a_chunked_body_that_ends_early_is_an_error(server: VideoServer, transport: HttpTransport) -> None:
    server.serve("/a.mp4", b"5\r\nvide", headers={"Transfer-Encoding": "chunked"}, length=None)
    with pytest.raises(TransportError):
        body(transport, server.url("/a.mp4"))


def test_no_request_is_sent_when_no_time_is_left(server: VideoServer, transport: HttpTransport) -> None:
    url = server.serve("/a.mp4", b"video")
    with (
        pytest.raises(TransportError, match="too long"),
        get(transport, url, Bounds(deadline=Deadline(FakeClock(), 0))),
    ):
        pass
    assert server.requests == []


def test_a_body_that_never_ends_is_left_at_the_deadline(server: VideoServer, transport: HttpTransport) -> None:
    clock = FakeClock()
    url = server.serve("/a.mp4", b"video" * 1_000_000)
    with get(transport, url, Bounds(deadline=Deadline(clock, 60.0))) as response:
        next(response.chunks)
        clock.advance(61)
        with pytest.raises(TransportError, match="too long"):
            next(response.chunks)


def test_a_body_of_more_bytes_than_asked_for_is_not_read_to_its_end(
    server: VideoServer, transport: HttpTransport
) -> None:
    url = server.serve("/a.mp4", b"video")
    with get(transport, url) as response:
        assert response.read(5) == b"video"
    with get(transport, url) as response, pytest.raises(TooLargeError):
        response.read(4)


@pytest.fixture
def limits(short_slices: None) -> Bounds:
    return Bounds(deadline=Deadline(FakeClock(), 60.0))


def interrupt_after_the_first_half(
    server: VideoServer, transport: HttpTransport, url: str, limits: Bounds, **held: Any
) -> None:
    hold = threading.Event()
    server.answers["/a.mp4"] = Answer(body=b"video", hold=hold, **held)
    try:
        with get(transport, url, limits) as response:
            assert next(response.chunks) == b"vi"
            limits.stop.set()
            with pytest.raises(TransportError, match="interrupted"):
                next(response.chunks)
        assert not server.gave_up
    finally:
        hold.set()


@pytest.mark.parametrize("length", [-1, None])
def test_a_read_of_what_never_comes_can_be_interrupted(
    length: int | None, server: VideoServer, transport: HttpTransport, limits: Bounds
) -> None:
    interrupt_after_the_first_half(server, transport, server.url("/a.mp4"), limits, length=length)


def test_silence_ends_at_the_read_timeout(server: VideoServer, transport: HttpTransport, limits: Bounds) -> None:
    hold = threading.Event()
    server.answers["/a.mp4"] = Answer(body=b"video", hold=hold)
    try:
        with get(transport, server.url("/a.mp4"), replace(limits, read_timeout=0.03)) as response:
            assert next(response.chunks) == b"vi"
            with pytest.raises(TransportError, match=r"sent nothing for 0\.03 s"):
                next(response.chunks)
    finally:
        hold.set()


def test_after_an_interruption_nothing_more_is_asked(server: VideoServer, transport: HttpTransport) -> None:
    stopped = Bounds(deadline=Deadline(FakeClock(), 60.0))
    stopped.stop.set()
    url = server.serve("/a.mp4", b"video")
    with pytest.raises(TransportError, match="interrupted"), get(transport, url, stopped):
        pass
    assert server.requests == []


def test_no_log_has_the_query_of_an_exchange(
    server: VideoServer, transport: HttpTransport, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.serve(
        "/a.mp4", b"video", headers={"odd name : x": "1"}, length=None
    )  # which urllib3 warns of, naming the URL
    for redirect in ("/moved?signature=hunter2", "/a.mp4?signature=hunter2"):
        server.serve("/moved", b"", status=302, headers={"Location": "/a.mp4?signature=hunter2"})
        body(transport, server.url(redirect))
    assert "GET /a.mp4 " in caplog.text
    assert "Failed to parse headers" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for cdn.example and 127.0.0.9, in one PEM file."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem", "cdn.example", "127.0.0.9")


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[VideoServer]:
    with VideoServer(ssl_context=server_context(certificate)) as server:
        yield server


def tls_transport(certificate: Path | None, *hosts: str) -> HttpTransport:
    policy = AddressPolicy("https://api.example", hosts, resolver=lambda host, port: ["127.0.0.1"])
    context = ssl.create_default_context(cafile=certificate) if certificate else None
    return HttpTransport(policy, ssl_context=context)


def test_tls_is_verified_against_the_name_though_the_address_is_connected_to(
    certificate: Path, tls_server: VideoServer
) -> None:
    tls_server.serve("/a.mp4", b"video" * 100_000)
    transport = tls_transport(certificate, "cdn.example")
    url = f"https://cdn.example:{tls_server.port}/a.mp4"
    assert [body(transport, url) for _ in range(3)] == [b"video" * 100_000] * 3
    transport.close()
    assert tls_server.connections == 1


def test_a_read_over_tls_can_be_interrupted_too(certificate: Path, tls_server: VideoServer, limits: Bounds) -> None:
    transport = tls_transport(certificate, "cdn.example")
    interrupt_after_the_first_half(tls_server, transport, f"https://cdn.example:{tls_server.port}/a.mp4", limits)
    transport.close()


def test_a_tls_handshake_that_drips_ends_at_the_connect_timeout() -> None:
    over = threading.Event()
    drops = 0

    def drip(listener: socket.socket) -> None:
        nonlocal drops
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(b"\x16\x03\x03\x40\x00")  # the head of a long record, whose bytes then come one by one
            while drops < 10_000 and not over.wait(0.005):
                connection.sendall(b"\x02")
                drops += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        transport = tls_transport(None, "cdn.example")
        limits = Bounds(deadline=Deadline(FakeClock(), 60.0), connect_timeout=0.1)
        try:
            with (
                pytest.raises(TransportError, match="broke off"),
                get(transport, f"https://cdn.example:{listener.getsockname()[1]}/a.mp4", limits),
            ):
                pass
        finally:
            over.set()
            thread.join()
    assert 0 < drops < 1000
