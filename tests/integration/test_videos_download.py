from __future__ import annotations

import errno
import hashlib
import io
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from akool_dagster.base.clock import Deadline
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.transport import HttpTransport
from akool_dagster.storage import OsFiles, StorageRoot
from akool_dagster.videos.download import Downloaded, download_video
from akool_dagster.videos.errors import DownloadError, ExpiredUrlError, HostTroubleError
from akool_dagster.videos.space import DiskSpace
from tests.clock import FakeClock
from tests.video_server import VideoServer


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with VideoServer() as server:
        yield server


@pytest.fixture
def transport(server: VideoServer) -> Iterator[HttpTransport]:
    transport = HttpTransport(AddressPolicy(server.base_url))
    yield transport
    transport.close()


def download(url: str, path: Path, transport: HttpTransport, **options: Any) -> Downloaded:
    options = {"files": OsFiles(), "room": DiskSpace(StorageRoot(str(path.parent))).open(), **options}
    return download_video(url, path, http=transport, bounds=Bounds(deadline=Deadline(FakeClock(), 60.0)), **options)


@pytest.mark.parametrize("options", [{}, {"chunked": True}, {"length": None}])
def test_the_file_has_the_served_bytes_and_their_hash(
    options: dict[str, Any], server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 10_000
    downloaded = download(server.serve("/a", content, **options), tmp_path / "a", transport)
    assert (tmp_path / "a").read_bytes() == content
    assert downloaded == Downloaded(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def test_a_compressed_body_is_kept_as_served(server: VideoServer, transport: HttpTransport, tmp_path: Path) -> None:
    url = server.serve("/a", b"not really gzip", headers={"Content-Encoding": "gzip"})
    download(url, tmp_path / "a", transport)
    assert (tmp_path / "a").read_bytes() == b"not really gzip"


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_url_that_is_over_is_told_apart(
    status: int, server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    url = server.serve("/a", b"<Error>AccessDenied</Error>", status=status)
    with pytest.raises(ExpiredUrlError, match=str(status)):
        download(f"{url}?signature=hunter2", tmp_path / "a", transport)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("status", "retryable"),
    [(500, True), (503, True), (429, True), (408, True), (400, False), (401, False), (206, False), (302, False)],
)
def test_other_answers_say_whether_trying_again_helps(
    status: int, retryable: bool, server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=str(status)) as caught:
        download(server.serve("/a", b"no", status=status), tmp_path / "a", transport)
    assert not isinstance(caught.value, ExpiredUrlError)
    assert caught.value.retryable is retryable


@pytest.mark.parametrize("length", [-1, None])
def test_an_empty_body_is_no_download(
    length: int | None, server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match="empty") as caught:
        download(server.serve("/a", b"", length=length), tmp_path / "a", transport)
    assert caught.value.retryable


def test_a_short_body_is_no_download(server: VideoServer, transport: HttpTransport, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        download(server.serve("/a", b"video", length=6), tmp_path / "a", transport)
    assert caught.value.retryable


@pytest.mark.parametrize("options", [{}, {"chunked": True}, {"length": None}])
def test_more_bytes_than_the_limit_are_refused(
    options: dict[str, Any], server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    url = server.serve("/a", b"x" * 101, **options)
    with pytest.raises(DownloadError, match="limit of 100 bytes") as caught:
        download(url, tmp_path / "a", transport, max_bytes=100)
    assert not caught.value.retryable
    assert download(url, tmp_path / "b", transport, max_bytes=101).bytes == 101


def test_a_full_disk_is_the_disk_s_error_and_not_the_network_s(
    server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    class FullFile(io.FileIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    class FullDisk(OsFiles):
        def open(self, path: Path, mode: str) -> BinaryIO:
            return FullFile(path, mode)

    with pytest.raises(OSError, match="No space left"):
        download(server.serve("/a", b"video"), tmp_path / "a", transport, files=FullDisk())


def test_memory_does_not_grow_with_the_file(server: VideoServer, transport: HttpTransport, tmp_path: Path) -> None:
    url = server.serve("/a", bytes(48 << 20))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert download(url, tmp_path / "a", transport).bytes == 48 << 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - before < 6 << 20


@pytest.mark.parametrize("location", ["https://10.0.0.1/v.mp4?signature=hunter2", "file:///etc/passwd", "/again"])
def test_a_redirect_that_is_not_followed_is_not_worth_another_try(
    location: str, server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    url = server.serve("/again", b"", status=302, headers={"Location": location})
    with pytest.raises(DownloadError) as caught:
        download(url, tmp_path / "a", transport)
    assert not caught.value.retryable
    assert "hunter2" not in str(caught.value)


def test_a_host_that_takes_no_connection_is_in_trouble(
    server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    policy = AddressPolicy(f"http://127.0.0.1:{port}")
    with pytest.raises(HostTroubleError, match="no connection"):
        download(f"http://127.0.0.1:{port}/a?signature=hunter2", tmp_path / "a", HttpTransport(policy))
