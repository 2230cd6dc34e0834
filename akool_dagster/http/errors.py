"""What can go wrong with one HTTP exchange."""

from __future__ import annotations

from akool_dagster.errors import AkoolDagsterError


class RefusedAddressError(AkoolDagsterError):
    """A URL that is never connected to. The message has the host and the reason, not the rest of the URL."""


class TransportError(AkoolDagsterError):
    """No whole answer came. The message is one sentence with the host, and without the rest of the URL.

    ``detail`` is what the library said. It may quote what the server sent: redact it before showing it.
    """

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


class TooManyRedirectsError(TransportError):
    """The server redirects again and again."""


class TooLargeError(TransportError):
    """The body has more bytes than the caller accepts."""
