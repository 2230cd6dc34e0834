"""What can go wrong between us and Akool: one base, one leaf for each way to react."""

from __future__ import annotations

from akool_dagster.base.redaction import redact_text
from akool_dagster.errors import AkoolDagsterError


class AkoolError(AkoolDagsterError):
    """A call to Akool did not give a usable answer.

    ``code`` is Akool's own when the answer had one, ``job_id`` is set when the call was about one job. No message
    holds a secret: URLs in it lose query and user-info here, keys and tokens are never put in.
    """

    def __init__(self, message: str, *, code: int | None = None, job_id: str | None = None) -> None:
        self.message = redact_text(message)
        self.code = code
        self.job_id = job_id
        super().__init__(self.message)  # message alone, so that pickling rebuilds every leaf


class AkoolConfigurationError(AkoolError):
    """Our own settings cannot work: no credentials, a malformed key, an unsafe base URL. No call was made."""


class AkoolCredentialsError(AkoolError):
    """Akool refused the key or the client id and secret; the message names the variable to fix."""


class AkoolAccountError(AkoolError):
    """The account may not do this now: banned, unpaid, unverified, without subscription or credits."""


class AkoolThrottledError(AkoolError):
    """Too many calls (1005, HTTP 429, a 5xx that names a time); ``retry_after`` is in seconds, if given."""

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        job_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, job_id=job_id)
        self.retry_after = retry_after


class AkoolContentError(AkoolError):
    """Akool objects to an id of the call (1003, 1008, 1009, 1014); of several, it does not say to which."""


class AkoolTransientError(AkoolError):
    """Trouble that passes by itself: network, HTTP 5xx, a body that is not JSON, codes 1015 and 2001."""


class AkoolDeadlineError(AkoolError):
    """The caller's time ran out before a usable answer came; nothing is known about the jobs."""


class AkoolResponseError(AkoolError):
    """An answer that cannot be used: an unknown or unfitting code, a wrong shape, a redirect, a 4xx."""
