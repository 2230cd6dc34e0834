"""Where the calls go: only https, or plain http to this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from akool_dagster.api.errors import AkoolConfigurationError

DEFAULT_BASE_URL = "https://openapi.akool.com"


def checked_base_url(base_url: str) -> tuple[str, bool]:
    """Return the URL without a slash at its end, and whether it is on this machine.

    Raises AkoolConfigurationError, which does not show the URL, for one that no key may be sent to.
    """
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname or "", parts.port  # reading a port that is none raises
    except ValueError:
        raise _refusal("is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", base_url):
        raise _refusal("is not a URL that starts with https://")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise _refusal("has user-info, a query or a fragment, and may have none")
    is_local = _is_loopback(host)
    if parts.scheme == "http" and not is_local:
        raise _refusal("is plain http, which would send the key unencrypted; use https")
    return base_url.rstrip("/"), is_local


def _refusal(problem: str) -> AkoolConfigurationError:
    return AkoolConfigurationError(f"The base URL {problem}. Check AKOOL_BASE_URL; unset means Akool's own.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
