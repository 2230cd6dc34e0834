"""One video: download, verify, publish, and one more try when its URL is over."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from akool_dagster.api.redaction import redact_text
from akool_dagster.clock import Clock, Deadline
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.storage import StorageError, StorageRoot
from akool_dagster.videos.download import download_video
from akool_dagster.videos.errors import ExpiredUrlError, VideoError
from akool_dagster.videos.probe import VideoFacts, probe_video
from akool_dagster.videos.transport import VideoTransport

logger = logging.getLogger(__name__)

#: A temporary file that nobody wrote to for so long has no living writer: longer than any wait for a chunk.
STALE_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """A video to store."""

    job_id: str
    source_url: str
    expires_at_ms: int
    partition_at_ms: int
    attempts: int = 0
    """How many were made before."""
    reported_duration: float | None = None
    """Seconds, as Akool reported them."""


@dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """A verified video at its place."""

    job_id: str
    path: str
    """Relative to the storage root."""
    bytes: int
    sha256: str
    facts: VideoFacts
    source_url: str
    """The URL it came from: that of the request, or the newer one that Akool gave."""
    downloaded_at_ms: int


@dataclass(frozen=True, kw_only=True)
class FailedVideo:
    """An attempt that stored nothing."""

    job_id: str
    error: str
    """One sentence, without secrets."""
    retryable: bool
    expired_url: bool
    """Whether the URL, the newest that Akool knows, was answered with 403, 404 or 410."""


Outcome: TypeAlias = StoredVideo | FailedVideo


def video_path(folder: str, request: VideoRequest) -> str:
    """Return where a video belongs below the root. The day is that of its partition, in UTC."""
    day = datetime.fromtimestamp(request.partition_at_ms / 1000, tz=UTC).date().isoformat()
    return f"{folder}/{day}/{request.job_id}.mp4"


class VideoStorer:
    """What one thread does for one video."""

    def __init__(
        self,
        root: StorageRoot,
        folder: str,
        refresh_url: Callable[[str], str | None],
        clock: Clock,
        max_bytes: int,
    ) -> None:
        self._root = root
        self._folder = folder
        self._refresh_url = refresh_url
        self._refresh_lock = threading.Lock()
        self._clock = clock
        self._max_bytes = max_bytes
        self._cleaned: set[str] = set()

    def clean(self, request: VideoRequest) -> None:
        """Remove what a killed process left in the video's folder; once a folder."""
        folder = video_path(self._folder, request).rpartition("/")[0]
        if folder not in self._cleaned:
            self._root.remove_stale_temporaries(folder, STALE_SECONDS, self._clock)
            self._cleaned.add(folder)

    def fetch(self, request: VideoRequest, transport: VideoTransport, deadline: Deadline) -> Outcome:
        """Store one video, with one more try under a new URL when the known one is over."""
        try:
            try:
                return self._store(request, request.source_url, transport, deadline)
            except ExpiredUrlError as error:
                return self._store(request, self._refreshed(request, error), transport, deadline)
        except VideoError as error:
            expired = isinstance(error, ExpiredUrlError)
            return FailedVideo(job_id=request.job_id, error=str(error), retryable=error.retryable, expired_url=expired)
        except StorageError:
            raise
        except Exception as error:
            trace = redact_text(traceback.format_exc())  # an error of whatever kind may quote the URL
            logger.warning("Video %s failed unexpectedly.\n%s", request.job_id, trace)
            message = f"Unexpected {type(error).__name__} while storing the video."
            return FailedVideo(job_id=request.job_id, error=message, retryable=True, expired_url=False)

    def _store(self, request: VideoRequest, url: str, transport: VideoTransport, deadline: Deadline) -> StoredVideo:
        relative = video_path(self._folder, request)
        with self._root.temporary(relative) as path:
            downloaded = download_video(
                url,
                path,
                transport=transport,
                deadline=deadline,
                files=self._root.files,
                max_bytes=self._max_bytes,
            )
            facts = probe_video(path)
            self._root.publish(path, relative)
        return StoredVideo(
            job_id=request.job_id,
            path=relative,
            bytes=downloaded.bytes,
            sha256=downloaded.sha256,
            facts=facts,
            source_url=url,
            downloaded_at_ms=self._clock.now_ms(),
        )

    def _refreshed(self, request: VideoRequest, expired: ExpiredUrlError) -> str:
        try:
            with self._refresh_lock:
                url = self._refresh_url(request.job_id)
        except AkoolDagsterError as error:
            raise ExpiredUrlError(f"{expired} Asking Akool for a new URL failed: {error}") from None
        if url is None:
            raise ExpiredUrlError(f"{expired} Akool gives no other URL.")
        return url
