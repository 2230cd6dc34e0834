"""Download one URL to one local file: hashed on the way, or an error that says what to do about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from akool_dagster.http.bounds import Bounds
from akool_dagster.http.errors import RefusedAddressError, TooManyRedirectsError, TransportError
from akool_dagster.http.transport import HttpResponse, HttpTransport
from akool_dagster.storage import OsFiles
from akool_dagster.videos.disk import DiskReservation
from akool_dagster.videos.errors import DownloadError, ExpiredUrlError, Failure, HostTroubleError

EXPIRED = {403: Failure.FORBIDDEN, 404: Failure.GONE, 410: Failure.GONE}
BUSY = frozenset({408, 425, 429})
MOST_REDIRECTS = 5
HEADERS = {"Accept": "video/*, */*", "Accept-Encoding": "identity", "User-Agent": "akool-dagster"}


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """What arrived."""

    bytes: int
    sha256: str


def download_video(
    url: str,
    destination: Path,
    *,
    http: HttpTransport,
    bounds: Bounds,
    files: OsFiles,
    reservation: DiskReservation,
    max_bytes: int,
) -> Downloaded:
    """Write the body that a URL serves to a new file, in chunks of at most 1 MiB, and return its size and hash.

    Never resumes: a broken download starts over. What was written stays behind on an error; the caller removes the
    file. Raises `ExpiredUrlError` for 403, 404 and 410, `DownloadError` for anything else the URL, the server or the
    network does (`Failure.LASTING` for a refused URL, more than 5 redirects, another 4xx and too many bytes),
    `DiskTooSmallError` before the first byte of a body that does not fit on the disk, and `OSError` for what the
    disk does.
    """
    with (
        _as_download_errors(),
        http.request("GET", url, bounds=bounds, headers=HEADERS, redirects=MOST_REDIRECTS) as response,
    ):
        _refuse_status(response)
        if response.length is not None and response.length > max_bytes:
            raise _too_large(response.host, max_bytes)
        reservation.resize(response.length)
        digest = hashlib.sha256()
        received = 0
        with files.open(destination, "xb") as file:
            for chunk in response.chunks:  # Raises when the body ends before its Content-Length.
                received += len(chunk)
                if received > max_bytes:
                    raise _too_large(response.host, max_bytes)
                digest.update(chunk)
                file.write(chunk)
                reservation.written = received
    if not received:
        raise DownloadError(f"{response.host} sent an empty body.")
    return Downloaded(bytes=received, sha256=digest.hexdigest())


@contextmanager
def _as_download_errors() -> Iterator[None]:
    try:
        yield
    except (RefusedAddressError, TooManyRedirectsError) as error:
        raise DownloadError(str(error), Failure.LASTING) from None
    except TransportError as error:
        raise HostTroubleError(str(error)) from None


def _refuse_status(response: HttpResponse) -> None:
    if response.status == 200:
        return
    message = f"{response.host} answered HTTP {response.status}."
    if response.status in EXPIRED:
        raise ExpiredUrlError(message, EXPIRED[response.status])
    if response.status >= 500 or response.status in BUSY:
        raise HostTroubleError(message)
    raise DownloadError(message, Failure.LASTING)


def _too_large(host: str, max_bytes: int) -> DownloadError:
    return DownloadError(f"{host} sends more than the limit of {max_bytes} bytes.", Failure.LASTING)
