"""The errors of one video, and what each means for the next attempt. No error of a video stops another video."""

from __future__ import annotations

from enum import Enum

from akool_dagster.errors import AkoolDagsterError


class Failure(Enum):
    """How an attempt ended, as far as the next attempt and the end of all attempts depend on it."""

    GONE = "404 or 410"
    FORBIDDEN = "403"
    PASSING = "trouble that may pass: the host, the network, bytes that are no whole video"
    LASTING = "what only another configuration can mend: a refused address, too large a file"


class VideoError(AkoolDagsterError):
    """Base: one video was not stored. The message is one sentence without secrets."""

    failure = Failure.PASSING
    host_answers: bool | None = None
    """Whether the URL's host answers requests; None when the error does not tell."""
    counts = True
    """Whether this was an attempt. An attempt whose refused file could not be kept is none."""


class DownloadError(VideoError):
    """The bytes did not arrive whole."""

    def __init__(self, message: str, failure: Failure = Failure.PASSING) -> None:
        super().__init__(message)
        self.failure = failure


class HostTroubleError(DownloadError):
    """The host is in trouble, not the video: no address, no connection, no bytes, or an answer that says so."""

    host_answers = False


class ExpiredUrlError(DownloadError):
    """The CDN answered 403, 404 or 410: the URL is over, or not there yet. Akool may know a new URL."""

    host_answers = True


class UnplayableVideoError(VideoError):
    """The file is not a whole video: not a video at all, cut short, or damaged."""


class RefusedFileError(VideoError):
    """The verifier refused what was served. The file is kept if ``counts``."""

    def __init__(self, message: str, *, counts: bool) -> None:
        super().__init__(message)
        self.counts = counts
