"""One video: download, verify, publish, and one more try when its URL is over."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from akool_dagster.videos.download import download_video
from akool_dagster.videos.errors import (
    ExpiredUrlError,
    HostTroubleError,
    RefusedFileError,
    UnplayableVideoError,
    VideoError,
)
from akool_dagster.videos.kept import is_text, keep_refused, kept_path, take_kept, verify_stored
from akool_dagster.videos.probe import VideoFacts, probe_video
from akool_dagster.videos.refresh import AkoolSays, Refreshed
from akool_dagster.videos.schedule import Failure
from akool_dagster.videos.space import NoRoomError, Room

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class VideoRequest:
    """A video to store."""

    job_id: str
    source_url: str
    expires_at_ms: int
    partition_at_ms: int
    attempts: int = 0
    """How many were made before."""


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
    """Whether this was an attempt. It was none when what the verifier refused could not be kept."""

    @property
    def retryable(self) -> bool:
        """Whether trying again soon can help."""
        return self.failure is not Failure.LASTING


Outcome: TypeAlias = StoredVideo | FailedVideo


def day_of(partition_at_ms: int) -> str:
    """Return the name of the folder for the videos of a moment's UTC day."""
    return datetime.fromtimestamp(partition_at_ms / 1000, tz=UTC).date().isoformat()


def video_path(folder: str, request: VideoRequest) -> str:
    """Return where a video belongs below the root. The day is that of its partition, in UTC."""
    return f"{folder}/{day_of(request.partition_at_ms)}/{request.job_id}.mp4"


class VideoStorer:
    """What one thread does for one video."""

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

    def fetch(self, request: VideoRequest, bounds: Bounds, room: Room) -> Outcome:
        """Store one video, with one more try when its URL is over, under the one that Akool then gives.

        A whole video that is in the storage root already is taken without a download: the file at its destination,
        or the one that was kept when an older verifier refused it. What the verifier refuses is kept.
        Raises `StorageError`, and whatever ``before_publish`` does: those concern every video.
        """
        if there := self._take_existing(request):
            return there if request.source_url else self._with_url(there, request, bounds)
        url, refreshed = request.source_url, None
        try:
            try:
                if not url:  # Akool gave none yet, or the ledger was restored from tables without it
                    raise ExpiredUrlError("Its URL is not known.", status=404)
                return self._store(request, url, None, bounds, room)
            except ExpiredUrlError as error:
                refreshed = self._refreshed(request, bounds)
                if refreshed.url is None:
                    raise ExpiredUrlError(f"{error} {refreshed.remark}", status=error.status) from None
                url = refreshed.url
            try:
                return self._store(request, url, refreshed, bounds, room)
            except ExpiredUrlError as error:
                raise ExpiredUrlError(f"{error} {refreshed.remark}", status=error.status) from None
        except VideoError as error:
            return FailedVideo(
                job_id=request.job_id,
                error=str(error),
                failure=_failure(error),
                host=host_of(url),
                host_answers=_host_answers(error),
                refreshed=refreshed,
                refused=isinstance(error, RefusedFileError),
                kept=self._kept(request),
                counts=not isinstance(error, RefusedFileError) or error.counts,
            )

    def _with_url(self, stored: StoredVideo, request: VideoRequest, bounds: Bounds) -> StoredVideo:
        """Ask Akool for the URL of a video that is there, since the job's row shows none; the video is safe anyway."""
        try:
            refreshed = self._refreshed(request, bounds)
        except VideoError:
            return stored
        return replace(stored, source_url=refreshed.url or "", refreshed=refreshed)

    def _remove_kept(self, relative: str) -> None:
        try:
            self._root.remove(kept_path(relative))
        except StorageError as error:  # the video itself is safe
            logger.warning("A refused file stays beside the verified video. %s", error)

    def _take_existing(self, request: VideoRequest) -> StoredVideo | None:
        relative = video_path(self._folder, request)
        verified = verify_stored(self._root, relative)
        if verified is None:
            verified = take_kept(self._root, relative, self._before_publish)
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

    def _verify(self, request: VideoRequest, path: Path) -> VideoFacts:
        """Return what is in a downloaded file. Raises `RefusedFileError` after keeping a file that is refused."""
        try:
            with _unexpected_is_a_failure_of(request):
                return probe_video(path)
        except VideoError as error:
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
            raise RefusedFileError(f"{error} The file is kept as {kept}.") from error

    def _kept(self, request: VideoRequest) -> str | None:
        kept = kept_path(video_path(self._folder, request))
        try:
            return kept if self._root.exists(kept) else None
        except StorageError:
            return None

    def _store(
        self,
        request: VideoRequest,
        url: str,
        refreshed: Refreshed | None,
        bounds: Bounds,
        room: Room,
    ) -> StoredVideo:
        relative = video_path(self._folder, request)
        try:
            with self._root.temporary(relative) as path:
                with _unexpected_is_a_failure_of(request):
                    downloaded = download_video(
                        url,
                        path,
                        http=self._http,
                        bounds=bounds,
                        files=self._root.files,
                        room=room,
                        max_bytes=self._max_bytes,
                    )
                facts = self._verify(request, path)
                self._before_publish()
                self._root.publish(path, relative)
            self._remove_kept(relative)
        except NoRoomError:
            raise
        except StorageFullError as error:
            if room.expected is None:
                raise
            raise StorageFullError(f"{error} The video has {room.expected / 1e6:.1f} MB.") from error
        except OSError as error:  # the disk's own are a `StorageError` by now
            raise _unexpected(request, error) from error
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

    def _refreshed(self, request: VideoRequest, bounds: Bounds) -> Refreshed:
        def ask() -> Refreshed:
            return self._refresh(request.job_id, request.source_url, bounds.deadline)

        try:
            return call_within(ask, bounds, "Akool")  # so that an interrupted fetch need not wait for the answer
        except TransportError:
            return Refreshed(says=AkoolSays.NOTHING, trouble="the time for this video was over.")
        except Exception as error:
            raise _unexpected(request, error) from error


def _failure(error: VideoError) -> Failure:
    if isinstance(error, ExpiredUrlError):
        return Failure.FORBIDDEN if error.status == 403 else Failure.GONE
    return Failure.PASSING if error.retryable else Failure.LASTING


def _host_answers(error: VideoError) -> bool | None:
    if isinstance(error, HostTroubleError):
        return False
    return True if isinstance(error, ExpiredUrlError) else None


@contextmanager
def _unexpected_is_a_failure_of(request: VideoRequest) -> Iterator[None]:
    """Turn an exception that nobody foresaw into a `VideoError`, so that it stops no other video."""
    try:
        yield
    except (AkoolDagsterError, OSError):
        raise
    except Exception as error:
        raise _unexpected(request, error) from error


def _unexpected(request: VideoRequest, error: Exception) -> VideoError:
    trace = redact_text("".join(traceback.format_exception(error)))  # an error of whatever kind may quote the URL
    logger.warning("Video %s failed unexpectedly.\n%s", request.job_id, trace)
    return VideoError(f"Unexpected {type(error).__name__} while storing the video.")
