"""Store one video: download, verify, publish, and one more try when its URL is over."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.base.redaction import redact_text
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.http.addresses import host_of
from akool_dagster.http.bounds import Bounds, call_within
from akool_dagster.http.errors import TransportError
from akool_dagster.http.transport import HttpTransport
from akool_dagster.storage import StorageError, StorageFullError, StorageRoot
from akool_dagster.videos.disk import DiskReservation
from akool_dagster.videos.download import download_video
from akool_dagster.videos.errors import ExpiredUrlError, Failure, RefusedFileError, UnplayableVideoError, VideoError
from akool_dagster.videos.kept import is_text, keep_refused, kept_path, take_existing
from akool_dagster.videos.probe import VideoFacts, probe_video
from akool_dagster.videos.refresh import AkoolSays, Refreshed

ATTEMPTS_FOR_URL = 3
"""Attempts to learn the URL of a video that is there, fewer than before any video is given up."""
NO_ANSWER = frozenset({AkoolSays.NOTHING, AkoolSays.NO_URL})
"""Answers after which Akool may give a URL later."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """A video to store."""

    job_id: str
    source_url: str
    expires_at_ms: int
    partition_at_ms: int
    attempts: int = 0
    """Attempts that were made before."""


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
    """The URL that the video came from: that of the request, or the newer URL that Akool gave."""
    downloaded_at_ms: int
    downloaded: bool = True
    """Whether it was downloaded now. Otherwise the file was in the storage root already."""
    refreshed: Refreshed | None = None
    """What Akool said, when it was asked."""


@dataclass(frozen=True, kw_only=True)
class FailedVideo:
    """An attempt that stored nothing."""

    job_id: str
    error: str
    """One sentence or two, without secrets."""
    failure: Failure
    host: str
    """The host of the URL that was tried last."""
    host_answers: bool | None
    """Whether that host answers requests; None when it was not asked."""
    refreshed: Refreshed | None = None
    refused: bool = False
    """Whether the verifier refused what was served."""
    kept: str | None = None
    """Where a file that the verifier refused is kept, relative to the storage root; None when there is none."""
    counts: bool = True
    """Whether this was an attempt. An attempt whose refused file could not be kept is none."""


Outcome: TypeAlias = StoredVideo | FailedVideo


def day_of(partition_at_ms: int) -> str:
    """Return the name of the folder for the videos of a UTC day."""
    return datetime.fromtimestamp(partition_at_ms / 1000, tz=UTC).date().isoformat()


def video_path(folder: str, request: VideoRequest) -> str:
    """Return where a video belongs below the root. The day is that of its partition, in UTC."""
    return f"{folder}/{day_of(request.partition_at_ms)}/{request.job_id}.mp4"


class VideoStorer:
    """Stores one video after the other; usable from several threads."""

    def __init__(
        self,
        root: StorageRoot,
        folder: str,
        *,
        http: HttpTransport,
        refresh: Callable[[str, str, Deadline], Refreshed],
        before_publish: Callable[[], None],
        clock: Clock,
        max_bytes: int,
    ) -> None:
        self._root = root
        self._http = http
        self._folder = folder
        self._refresh = refresh
        self._before_publish = before_publish
        self._clock = clock
        self._max_bytes = max_bytes

    def fetch(self, request: VideoRequest, bounds: Bounds, reservation: DiskReservation) -> Outcome:
        """Store one video, with one more try when its URL is over, under the URL that Akool then gives.

        A whole video that is in the storage root already is taken without a download: the file at its destination,
        or the file that was kept when an older verifier refused it. What the verifier refuses is kept.
        Raises `StorageError`, and any other `AkoolDagsterError` of ``before_publish``: those concern every video.
        """
        url = request.source_url
        refreshed: Refreshed | None = None
        if there := self._take_existing(request):
            if url:
                return there
            refreshed = self._refreshed(request, bounds)  # the job's row shows no URL
            if refreshed.says in NO_ANSWER and request.attempts < ATTEMPTS_FOR_URL:
                unknown = VideoError(f"The video is there, and its URL is not known yet. {refreshed.remark}")
                return self._failed(request, unknown, url, refreshed)
            return replace(there, source_url=refreshed.url or "", refreshed=refreshed)
        try:
            try:
                if not url:  # Akool gave none yet, or the ledger was restored from tables without it
                    raise ExpiredUrlError("Its URL is not known.", Failure.GONE)
                return self._store(request, url, None, bounds, reservation)
            except ExpiredUrlError:
                refreshed = self._refreshed(request, bounds)
                if refreshed.url is None:
                    raise
                url = refreshed.url
                return self._store(request, url, refreshed, bounds, reservation)
        except Exception as error:
            if isinstance(error, AkoolDagsterError) and not isinstance(error, VideoError):
                raise  # this concerns every video
            return self._failed(request, _as_video_error(request, error), url, refreshed)

    def _failed(self, request: VideoRequest, error: VideoError, url: str, refreshed: Refreshed | None) -> FailedVideo:
        is_over = isinstance(error, ExpiredUrlError) and refreshed is not None
        return FailedVideo(
            job_id=request.job_id,
            error=f"{error} {refreshed.remark}" if is_over and refreshed else str(error),
            failure=error.failure,
            host=host_of(url),
            host_answers=error.host_answers,
            refreshed=refreshed,
            refused=isinstance(error, RefusedFileError),
            kept=self._kept(request),
            counts=error.counts,
        )

    def _take_existing(self, request: VideoRequest) -> StoredVideo | None:
        relative = video_path(self._folder, request)
        verified = take_existing(self._root, relative, self._before_publish)
        if verified is None:
            return None
        self._remove_kept(relative)
        return StoredVideo(
            job_id=request.job_id,
            path=relative,
            bytes=verified.bytes,
            sha256=verified.sha256,
            facts=verified.facts,
            source_url=request.source_url,
            downloaded_at_ms=self._clock.now_ms(),
            downloaded=False,
        )

    def _store(
        self,
        request: VideoRequest,
        url: str,
        refreshed: Refreshed | None,
        bounds: Bounds,
        reservation: DiskReservation,
    ) -> StoredVideo:
        relative = video_path(self._folder, request)
        try:
            with self._root.temporary(relative) as path:
                downloaded = download_video(
                    url,
                    path,
                    http=self._http,
                    bounds=bounds,
                    files=self._root.files,
                    reservation=reservation,
                    max_bytes=self._max_bytes,
                )
                facts = self._verify(request, path)
                self._before_publish()
                self._root.publish(path, relative)
            self._remove_kept(relative)
        except StorageFullError as error:
            if reservation.length is None:  # as in a `DiskTooSmallError`, which names the size
                raise
            raise StorageFullError(f"{error} The video has {reservation.length / 1e6:.1f} MB.") from error
        return StoredVideo(
            job_id=request.job_id,
            path=relative,
            bytes=downloaded.bytes,
            sha256=downloaded.sha256,
            facts=facts,
            source_url=url,
            downloaded_at_ms=self._clock.now_ms(),
            refreshed=refreshed,
        )

    def _verify(self, request: VideoRequest, path: Path) -> VideoFacts:
        """Return what is in a downloaded file. Raises `RefusedFileError` after keeping a file that is refused."""
        try:
            return probe_video(path)
        except OSError:
            raise
        except Exception as problem:
            error = _as_video_error(request, problem)
            if is_text(path):
                raise UnplayableVideoError(f"{error} It begins like a text and is not kept.") from error
            self._before_publish()
            kept = kept_path(video_path(self._folder, request))
            try:
                keep_refused(self._root, path, kept)
            except StorageFullError:
                raise
            except StorageError as trouble:
                raise RefusedFileError(f"{error} The file could not be kept: {trouble}", counts=False) from error
            raise RefusedFileError(f"{error} The file is kept as {kept}.", counts=True) from error

    def _kept(self, request: VideoRequest) -> str | None:
        kept = kept_path(video_path(self._folder, request))
        try:
            return kept if self._root.exists(kept) else None
        except StorageError:
            return None

    def _remove_kept(self, relative: str) -> None:
        try:
            self._root.remove(kept_path(relative))
        except StorageError as error:  # the video itself is safe
            logger.warning("A refused file stays beside the verified video. %s", error)

    def _refreshed(self, request: VideoRequest, bounds: Bounds) -> Refreshed:
        def ask() -> Refreshed:
            return self._refresh(request.job_id, request.source_url, bounds.deadline)

        try:
            return call_within(ask, bounds, "Akool")  # so that an interrupted fetch need not wait for the answer
        except TransportError:
            trouble = "the time for this video was over."
        except Exception as error:
            trouble = str(_as_video_error(request, error))
        return Refreshed(says=AkoolSays.NOTHING, trouble=trouble)


def _as_video_error(request: VideoRequest, error: Exception) -> VideoError:
    """Return an unforeseen exception as a `VideoError`, so that the exception stops no other video."""
    if isinstance(error, VideoError):
        return error
    trace = redact_text("".join(traceback.format_exception(error)))  # an error of whatever kind may quote the URL
    logger.warning("Video %s failed unexpectedly.\n%s", request.job_id, trace)
    return VideoError(f"Unexpected {type(error).__name__} while storing the video.")
