"""What can go wrong with one video. None of it stops another one."""

from __future__ import annotations

from akool_dagster.errors import AkoolDagsterError


class VideoError(AkoolDagsterError):
    """Base: one video was not stored. The message is one sentence without secrets."""

    retryable = True
    """Whether trying again soon can help; if not, only time or another configuration can."""


class DownloadError(VideoError):
    """The bytes did not arrive whole."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class HostTroubleError(DownloadError):
    """The host is in trouble, not the video: no address, no connection, no bytes, or an answer that says so."""


class ExpiredUrlError(DownloadError):
    """The CDN answered 403, 404 or 410: the URL is over, or not there yet. Akool may know a new one."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnplayableVideoError(VideoError):
    """The file is not a whole video: not a video at all, cut short, or damaged."""


class RefusedFileError(VideoError):
    """The verifier refused what was served, which is kept unless ``counts`` is false."""

    def __init__(self, message: str, *, counts: bool = True) -> None:
        super().__init__(message)
        self.counts = counts
        """Whether this was an attempt. It was none when the file could not be kept."""
