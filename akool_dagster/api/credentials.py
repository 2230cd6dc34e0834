"""Who we are to Akool. Values never show in a repr, and a malformed one is refused without being shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from akool_dagster.api.errors import AkoolConfigurationError


def _require_header_value(value: str, what: str) -> None:
    # A header value with a line break would be refused by the HTTP library with the value in the message.
    if not re.fullmatch(r"[\x21-\x7e\xa1-\xff]+", value):
        raise AkoolConfigurationError(
            f"{what} is empty or has blanks, line breaks or characters that no HTTP header can carry. "
            "Copy it again from akool.com, without anything around it."
        )


@dataclass(frozen=True)
class ApiKey:
    """An API key, sent as ``x-api-key``. Raises AkoolConfigurationError when no header can carry it."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        _require_header_value(self.value, "The API key (AKOOL_API_KEY)")


@dataclass(frozen=True)
class ClientCredentials:
    """Client id and secret, exchanged for a token. Raises AkoolConfigurationError when one is malformed."""

    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)

    def __post_init__(self) -> None:
        _require_header_value(self.client_id, "The client id (AKOOL_CLIENT_ID)")
        _require_header_value(self.client_secret, "The client secret (AKOOL_CLIENT_SECRET)")


@dataclass(frozen=True)
class Token:
    """A bearer token; Akool documents that it lives for over a year."""

    value: str = field(repr=False)


def credentials_from(
    api_key: str | None, client_id: str | None, client_secret: str | None
) -> ApiKey | ClientCredentials:
    """Return the credentials to use; an empty value counts as none, and the key wins over the pair.

    Akool itself would let a token win over a key, which is why only one of them is ever sent. Raises
    AkoolConfigurationError when there is neither a key nor a whole pair.
    """
    if api_key:
        return ApiKey(api_key)
    if client_id and client_secret:
        return ClientCredentials(client_id, client_secret)
    missing = "AKOOL_CLIENT_SECRET is missing" if client_id else "AKOOL_CLIENT_ID is missing"
    raise AkoolConfigurationError(
        ("No Akool credentials" if not client_id and not client_secret else f"Half a pair of credentials: {missing}")
        + ". Set AKOOL_API_KEY, or AKOOL_CLIENT_ID together with AKOOL_CLIENT_SECRET."
    )
