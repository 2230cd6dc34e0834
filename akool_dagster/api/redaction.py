"""Takes secrets out of what Akool echoes: query strings and user-info of URLs, and the path of webhooks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

REDACTED = "[redacted]"

# Any scheme counts: a database or object-store URL carries a password as well as an http one does. In free
# text a URL goes on until a blank, a quotation mark or an angle bracket; when in doubt too much is cut, never
# too little.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s\"<>]*")
_AUTHORITY = re.compile(r"(?<=://)[^/\\?#]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s@:\[\]\"<>]*)(?::[0-9]*)?")
_URL_FIELD = re.compile(r"ur[li]s?$", re.IGNORECASE)
_WEBHOOK_FIELD = re.compile(r"(?:webhook|(?:webhook|callback|notify)ur[li])s?")


def _without_query(url: str) -> str:
    return re.split(r"[?#]", url, maxsplit=1)[0]


def _host_only(authority: re.Match[str]) -> str:
    host = authority[0].rpartition("@")[2]
    return host if _HOST.fullmatch(host) else REDACTED


def redact_url(url: str) -> str:
    """Return the URL without query, fragment and user-info; a host that cannot be one is hidden too."""
    kept = _without_query(url)
    if "://" in kept:
        # Every authority, not only the first: "https://proxy.example/https://user:secret@host/" has two.
        return _AUTHORITY.sub(_host_only, kept)
    lead = "//" if kept.startswith("//") else ""
    authority, slash, path = kept[len(lead) :].partition("/")
    return lead + authority.rpartition("@")[2] + slash + path


def redact_text(text: str) -> str:
    """Return the text with every URL in it redacted as by `redact_url`, and the rest unchanged."""
    return _URL.sub(lambda url: redact_url(url[0]), text) if "://" in text else text


def redact_webhook(url: str) -> str:
    """Return ``scheme://host[:port]`` of a webhook, whose path is often its secret; hide what is no URL."""
    if not url.strip():
        return url
    scheme, separator, rest = redact_url(url.strip()).partition("://")
    authority = re.split(r"[/\\]", rest, maxsplit=1)[0]
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme) and authority:
        return f"{scheme}://{authority}"
    return REDACTED


def redact_row(row: Mapping[str, object]) -> dict[str, object]:
    """Return a raw API row without secrets.

    A webhook keeps scheme and host, ``video_url`` stays as it is, every other string anywhere in the row
    loses the query and user-info of its URLs, and all other values are exactly as sent.
    """
    return {
        redact_text(key): value if key == "video_url" else _redact(value, _string_rule(key))
        for key, value in row.items()
    }


@lru_cache(maxsize=256)  # the same two dozen names in every row
def _string_rule(key: str) -> Callable[[str], str]:
    if _WEBHOOK_FIELD.fullmatch(re.sub(r"[^a-z]", "", key.lower())):
        return redact_webhook
    # A field that holds one URL is cut as a whole: a blank in its path must not let the query behind it
    # survive.
    return redact_url if _URL_FIELD.search(key) else redact_text


def _redact(value: object, rule: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return rule(value)
    if value is None or isinstance(value, int | float):  # before the slower look at abstract types
        return value
    if isinstance(value, Mapping):
        return {
            redact_text(key): _redact(inner, rule if rule is redact_webhook else _string_rule(key))
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [_redact(inner, rule) for inner in value]
    return value
