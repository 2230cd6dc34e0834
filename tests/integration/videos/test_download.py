"""What a URL may serve, and which error each answer becomes."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.base.clock import Deadline
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.transport import HttpTransport
from akool_dagster.storage import OsFiles, StorageRoot
from akool_dagster.videos.disk import DiskReservations
from akool_dagster.videos.download import Downloaded, download_video
from akool_dagster.videos.errors import DownloadError, ExpiredUrlError, Failure, HostTroubleError
from tests.clock import FakeClock
from tests.video_server import VideoServer


@pytest.fixture
def transport(server: VideoServer) -> Iterator[HttpTransport]:
    transport = HttpTransport(AddressPolicy(server.base_url))
    yield transport
    transport.close()


def download(url: str, path: Path, transport: HttpTransport, max_bytes: int = 100_000_000) -> Downloaded:
    return download_video(
        url,
        path,
        http=transport,
        bounds=Bounds(deadline=Deadline(FakeClock(), 60.0)),
        files=OsFiles(),
        reservation=DiskReservations(StorageRoot(str(path.parent)), 0).open(),
        max_bytes=max_bytes,
    )


@pytest.mark.parametrize("options", [{}, {"headers": {"Content-Encoding": "gzip"}}], ids=["plain", "not really gzip"])
def test_the_file_has_the_served_bytes_and_their_hash(
    options: dict[str, Any], server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    content = bytes(range(256)) * 10_000
    downloaded = download(server.serve("/a", content, **options), tmp_path / "a", transport)
    assert (tmp_path / "a").read_bytes() == content
    assert downloaded == Downloaded(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


ERRORS = {
    403: (ExpiredUrlError, Failure.FORBIDDEN),
    404: (ExpiredUrlError, Failure.GONE),
    410: (ExpiredUrlError, Failure.GONE),
    **dict.fromkeys((408, 429, 500, 503), (HostTroubleError, Failure.PASSING)),
    **dict.fromkeys((206, 302, 400, 401), (DownloadError, Failure.LASTING)),
}


@pytest.mark.parametrize("status", ERRORS)
def test_each_status_says_whether_the_url_is_over_the_host_in_trouble_or_another_try_of_no_use(
    status: int, server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    url = server.serve("/a", b"<Error>hunter2</Error>", status=status)
    with pytest.raises(DownloadError, match=str(status)) as caught:
        download(f"{url}?signature=hunter2", tmp_path / "a", transport)
    assert (type(caught.value), caught.value.failure) == ERRORS[status]
    assert "hunter2" not in str(caught.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("body", "length"), [(b"", -1), (b"", None), (b"video", 6)])
def test_an_empty_or_short_body_is_no_download_and_worth_another_try(
    body: bytes, length: int | None, server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    with pytest.raises(DownloadError) as caught:
        download(server.serve("/a", body, length=length), tmp_path / "a", transport)
    assert caught.value.failure is Failure.PASSING


@pytest.mark.parametrize("options", [{}, {"chunked": True}, {"length": None}])
def test_more_bytes_than_the_limit_are_refused(
    options: dict[str, Any], server: VideoServer, transport: HttpTransport, tmp_path: Path
) -> None:
    url = server.serve("/a", b"x" * 101, **options)
    with pytest.raises(DownloadError, match="limit of 100 bytes") as caught:
        download(url, tmp_path / "a", transport, max_bytes=100)
    assert caught.value.failure is Failure.LASTING
    assert download(url, tmp_path / "b", transport, max_bytes=101).bytes == 101


def test_memory_does_not_grow_with_the_file(server: VideoServer, transport: HttpTransport, tmp_path: Path) -> None:
    url = server.serve("/a", bytes(24 << 20))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert download(url, tmp_path / "a", transport).bytes == 24 << 20
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - before < 6 << 20
