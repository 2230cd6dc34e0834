"""Where the calls go: only https, or plain http to this machine."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from akool_dagster.api.errors import AkoolConfigurationError

DEFAULT_BASE_URL = "https://openapi.akool.com"


def checked_base_url(base_url: str) -> tuple[str, bool]:
    """Return the URL without a slash at its end, and whether it is on this machine."""
    problem = None
    host = ""
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        parts.port  # noqa: B018  (raises for a port that is none)
        if parts.scheme not in ("http", "https") or not host or re.search(r"\s", base_url):
            problem = "is not a URL that starts with https://"
        elif "@" in parts.netloc or parts.query or parts.fragment:
            problem = "has user-info, a query or a fragment, and may have none"
        elif parts.scheme == "http" and not is_loopback(host):
            problem = "is plain http, which would send the key unencrypted; use https"
    except ValueError:
        problem = "is not a URL"
    if problem is not None:
        raise AkoolConfigurationError(f"The base URL {problem}. Check AKOOL_BASE_URL; unset means Akool's own.")
    return base_url.rstrip("/"), is_loopback(host)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
