from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from akool_dagster.videos.transport import MOST_POOLS, VideoTransport

from akool_dagster.clock import Deadline
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.videos.errors import DownloadError, RefusedAddressError
from tests.certificates import make_certificate, server_context
from tests.clock import FakeClock
from tests.video_server import Answer, VideoServer


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with VideoServer() as server:
        yield server


@pytest.fixture
def transport(server: VideoServer) -> Iterator[VideoTransport]:
    transport = VideoTransport(AddressPolicy(server.base_url))
    yield transport
    transport.close()


def later() -> Deadline:
    return Deadline(FakeClock(), 60.0)


def body(transport: VideoTransport, url: str) -> bytes:
    with transport.get(url, later()) as response:
        assert response.status == 200
        return b"".join(response.chunks)


@pytest.mark.parametrize("options", [{}, {"chunked": True}, {"length": None}])
def test_a_body_arrives_whole(options: dict[str, bool | None], server: VideoServer, transport: VideoTransport) -> None:
    content = bytes(range(256)) * 20_000
    assert body(transport, server.serve("/a.mp4", content, **options)) == content
    assert transport.received_bytes == len(content)


def test_two_hundred_files_come_over_one_connection(server: VideoServer, transport: VideoTransport) -> None:
    url = server.serve("/a.mp4", b"video")
    assert {body(transport, url) for _ in range(200)} == {b"video"}
    assert server.connections == 1


def test_nothing_but_the_url_goes_to_the_server(
    server: VideoServer, transport: VideoTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
def test_a_redirect_is_followed(status: int, server: VideoServer, transport: VideoTransport) -> None:
    server.serve("/b.mp4", b"video")
    server.serve("/a.mp4", b"moved", status=status, headers={"Location": "/b.mp4?x=1"})
    assert body(transport, server.url("/a.mp4")) == b"video"
    assert server.requests[-1][0] == "/b.mp4?x=1"


def test_five_redirects_are_followed_and_a_loop_ends(server: VideoServer, transport: VideoTransport) -> None:
    server.serve("/5", b"video")
    for step in range(5):
        server.serve(f"/{step}", b"", status=302, headers={"Location": f"/{step + 1}"})
    assert body(transport, server.url("/0")) == b"video"
    server.serve("/loop", b"", status=302, headers={"Location": "/loop"})
    with pytest.raises(DownloadError, match="redirects") as caught:
        body(transport, server.url("/loop"))
    assert not caught.value.retryable
    assert server.count("/loop") == 6


def test_each_redirect_is_checked(server: VideoServer) -> None:
    with VideoServer() as inner:
        inner.serve("/secret", b"inner")
        for location in (
            inner.url("/secret"),
            "https://10.0.0.1/secret",
            "file:///etc/passwd",
            "http://user:pw@127.0.0.1/",
        ):
            server.serve("/a.mp4", b"", status=302, headers={"Location": location})
            transport = VideoTransport(AddressPolicy(server.base_url))
            with pytest.raises(RefusedAddressError):
                body(transport, server.url("/a.mp4"))
            transport.close()
        assert inner.requests == []


def test_the_checked_address_is_connected_to_and_the_name_is_not_asked_for_again(server: VideoServer) -> None:
    asked = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    transport = VideoTransport(AddressPolicy("https://api.example", ["cdn.example"], resolver=resolver))
    server.serve("/a.mp4", b"video")
    assert body(transport, f"http://cdn.example:{server.port}/a.mp4") == b"video"
    transport.close()
    assert asked == ["cdn.example"]
    assert server.requests[-1][1]["host"] == f"cdn.example:{server.port}"


def test_an_address_that_does_not_answer_is_passed_over_for_the_next(server: VideoServer) -> None:
    policy = AddressPolicy(
        "https://api.example", ["cdn.example"], resolver=lambda host, port: ["127.0.0.2", "127.0.0.1"]
    )
    transport = VideoTransport(policy)
    server.serve("/a.mp4", b"video")
    assert body(transport, f"http://cdn.example:{server.port}/a.mp4") == b"video"
    transport.close()


def test_only_the_newest_few_connections_are_kept(server: VideoServer) -> None:
    hosts = [f"cdn{number}.example" for number in range(10)]
    policy = AddressPolicy("https://api.example", hosts, resolver=lambda host, port: ["127.0.0.1"])
    transport = VideoTransport(policy)
    server.serve("/a.mp4", b"video")
    for host in hosts:
        body(transport, f"http://{host}:{server.port}/a.mp4")
    assert server.connections == 10
    for host in hosts[-MOST_POOLS:]:
        body(transport, f"http://{host}:{server.port}/a.mp4")
    assert server.connections == 10
    body(transport, f"http://{hosts[0]}:{server.port}/a.mp4")
    assert server.connections == 11
    transport.close()


def test_a_name_that_does_not_resolve_is_worth_another_try() -> None:
    def resolver(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    transport = VideoTransport(AddressPolicy("https://api.example", resolver=resolver))
    with pytest.raises(DownloadError) as caught:
        body(transport, "https://cdn.example/a.mp4")
    assert caught.value.retryable
    transport.close()


def test_a_refused_connection_is_worth_another_try_and_its_error_quotes_no_url() -> None:
    with VideoServer() as server:
        url = server.url("/a.mp4?signature=hunter2")
        base = server.base_url
    transport = VideoTransport(AddressPolicy(base))
    with pytest.raises(DownloadError) as caught:
        body(transport, url)
    assert caught.value.retryable
    assert "hunter2" not in str(caught.value)
    transport.close()


def test_a_body_that_ends_early_is_worth_another_try(server: VideoServer, transport: VideoTransport) -> None:
    server.serve("/a.mp4", b"video", length=100)
    with pytest.raises(DownloadError) as caught:
        body(transport, server.url("/a.mp4"))
    assert caught.value.retryable


def test_a_chunked_body_that_ends_early_is_worth_another_try(server: VideoServer, transport: VideoTransport) -> None:
    server.serve("/a.mp4", b"5\r\nvide", headers={"Transfer-Encoding": "chunked"}, length=None)
    with pytest.raises(DownloadError) as caught:
        body(transport, server.url("/a.mp4"))
    assert caught.value.retryable


def test_no_request_is_sent_when_no_time_is_left(server: VideoServer, transport: VideoTransport) -> None:
    url = server.serve("/a.mp4", b"video")
    with pytest.raises(DownloadError, match="too long"), transport.get(url, Deadline(FakeClock(), 0.0)):
        pass
    assert server.requests == []


def test_a_body_that_never_ends_is_left_at_the_deadline(server: VideoServer, transport: VideoTransport) -> None:
    clock = FakeClock()
    url = server.serve("/a.mp4", b"video" * 1_000_000)
    with transport.get(url, Deadline(clock, 60.0)) as response:
        next(response.chunks)
        clock.advance(61)
        with pytest.raises(DownloadError, match="too long"):
            next(response.chunks)


def interrupt_after_the_first_half(server: VideoServer, transport: VideoTransport, url: str) -> None:
    with transport.get(url, later()) as response:
        assert next(response.chunks) == b"vi"
        transport.abort()
        with pytest.raises(DownloadError, match="interrupted"):
            next(response.chunks)
    assert not server.gave_up


@pytest.mark.parametrize("length", [-1, None])
def test_a_read_of_what_never_comes_can_be_interrupted(
    length: int | None, server: VideoServer, transport: VideoTransport
) -> None:
    hold = threading.Event()
    server.answers["/a.mp4"] = Answer(body=b"video", length=length, hold=hold)
    interrupt_after_the_first_half(server, transport, server.url("/a.mp4"))
    hold.set()


def test_an_interrupted_transport_asks_for_nothing_more(server: VideoServer, transport: VideoTransport) -> None:
    transport.abort()
    with pytest.raises(DownloadError, match="interrupted"):
        body(transport, server.serve("/a.mp4", b"video"))
    assert server.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for cdn.example and 127.0.0.9, in one PEM file."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem", "cdn.example", "127.0.0.9")


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[VideoServer]:
    with VideoServer(ssl_context=server_context(certificate)) as server:
        yield server


def tls_transport(certificate: Path | None, *hosts: str) -> VideoTransport:
    policy = AddressPolicy("https://api.example", hosts, resolver=lambda host, port: ["127.0.0.1"])
    context = ssl.create_default_context(cafile=certificate) if certificate else None
    return VideoTransport(policy, ssl_context=context)


def test_tls_is_verified_against_the_name_though_the_address_is_connected_to(
    certificate: Path, tls_server: VideoServer
) -> None:
    tls_server.serve("/a.mp4", b"video" * 100_000)
    transport = tls_transport(certificate, "cdn.example")
    url = f"https://cdn.example:{tls_server.port}/a.mp4"
    assert [body(transport, url) for _ in range(3)] == [b"video" * 100_000] * 3
    transport.close()
    assert tls_server.connections == 1


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_a_certificate_for_another_name_is_refused(host: str, certificate: Path, tls_server: VideoServer) -> None:
    transport = tls_transport(certificate, host)
    with pytest.raises(DownloadError, match="SSLError"):
        body(transport, f"https://{host}:{tls_server.port}/a.mp4")
    transport.close()
    assert tls_server.requests == []


def test_a_certificate_that_nobody_vouches_for_is_refused(tls_server: VideoServer) -> None:
    transport = tls_transport(None, "cdn.example")
    with pytest.raises(DownloadError, match="SSLError"):
        body(transport, f"https://cdn.example:{tls_server.port}/a.mp4")
    transport.close()
    assert tls_server.requests == []


def test_a_read_over_tls_can_be_interrupted_too(certificate: Path, tls_server: VideoServer) -> None:
    hold = threading.Event()
    tls_server.answers["/a.mp4"] = Answer(body=b"video", hold=hold)
    transport = tls_transport(certificate, "cdn.example")
    url = f"https://cdn.example:{tls_server.port}/a.mp4"
    interrupt_after_the_first_half(tls_server, transport, url)
    transport.close()
    hold.set()
