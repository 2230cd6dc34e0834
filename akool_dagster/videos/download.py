"""One URL into one local file, hashed on the way, or an error that says what to do about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from akool_dagster.clock import Deadline
from akool_dagster.storage import OsFiles
from akool_dagster.videos.errors import DownloadError, ExpiredUrlError, HostTroubleError
from akool_dagster.videos.space import Room
from akool_dagster.videos.transport import VideoResponse, VideoTransport

LARGEST_BYTES = 2 << 30
EXPIRED = frozenset({403, 404, 410})
BUSY = frozenset({408, 425, 429})


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What arrived."""

    bytes: int
    sha256: str


def download_video(
    url: str,
    destination: Path,
    *,
    transport: VideoTransport,
    deadline: Deadline,
    files: OsFiles,
    room: Room,
    max_bytes: int = LARGEST_BYTES,
) -> Downloaded:
    """Write the body that a URL serves to a new file, in chunks of at most 1 MiB, and return its size and hash.

    Never resumes: a broken download starts over. What was written stays behind on an error; the caller removes
    it. Raises `RefusedAddressError`, `ExpiredUrlError` for 403, 404 and 410, `DownloadError` for anything else
    the server or the network does (retryable but for other 4xx and for too many bytes), `NoRoomError` before the
    first byte of a body that does not fit on the disk, and `OSError` for what the disk does.
    """
    with transport.get(url, deadline) as response:
        _refuse_status(response)
        if response.length is not None and response.length > max_bytes:
            raise _too_large(response.host, max_bytes)
        room.expect(response.length)
        digest = hashlib.sha256()
        received = 0
        with files.open(destination, "xb") as file:
            for chunk in response.chunks:  # Raises when the body ends before its Content-Length.
                received += len(chunk)
                if received > max_bytes:
                    raise _too_large(response.host, max_bytes)
                digest.update(chunk)
                file.write(chunk)
                room.received = received
    if not received:
        raise DownloadError(f"{response.host} sent an empty body.")
    return Downloaded(bytes=received, sha256=digest.hexdigest())


def _refuse_status(response: VideoResponse) -> None:
    if response.status == 200:
        return
    message = f"{response.host} answered HTTP {response.status}."
    if response.status in EXPIRED:
        raise ExpiredUrlError(message, status=response.status)
    if response.status >= 500 or response.status in BUSY:
        raise HostTroubleError(message)
    raise DownloadError(message, retryable=False)


def _too_large(host: str, max_bytes: int) -> DownloadError:
    return DownloadError(f"{host} sends more than the limit of {max_bytes} bytes.", retryable=False)
