"""Takes secrets out of text: query strings and user-info of URLs, and the path of webhooks."""

from __future__ import annotations

import re
from collections.abc import Callable

REDACTED = "[redacted]"

# Any scheme counts: a database or object-store URL carries a password as well as an http one does. In free
# text a URL goes on until a blank, a quotation mark or an angle bracket; when in doubt too much is cut, never
# too little.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s\"<>]*")
_AUTHORITY = re.compile(r"(?<=://)[^/\\?#]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s@:\[\]\"<>]*)(?::[0-9]*)?")
# Nearly every URL begins so, and needs none of the slower looks below.
_PLAIN_HOST = r"[A-Za-z][A-Za-z0-9+.\-]*://[A-Za-z0-9.\-]+(?::[0-9]+)?"
_PLAIN_WEBHOOK = re.compile(_PLAIN_HOST + r"(?=[/?#]|\Z)")
_PLAIN_URL = re.compile(_PLAIN_HOST + r"(?:/[^?#:\\]*)?(?=[?#]|\Z)")
_URL_FIELD = re.compile(r"ur[li]s?$", re.IGNORECASE)
_WEBHOOK_FIELD = re.compile(r"(?:webhook|(?:webhook|callback|notify)ur[li])s?")


def _without_query(url: str) -> str:
    return re.split(r"[?#]", url, maxsplit=1)[0]


def _host_only(authority: re.Match[str]) -> str:
    host = authority[0].rpartition("@")[2]
    return host if _HOST.fullmatch(host) else REDACTED


def redact_url(url: str) -> str:
    """Return the URL without query, fragment and user-info; a host that cannot be one is hidden too."""
    if plain := _PLAIN_URL.match(url):
        return plain[0]
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
    if plain := _PLAIN_WEBHOOK.match(url):
        return plain[0]
    if not url.strip():
        return url
    scheme, separator, rest = redact_url(url.strip()).partition("://")
    authority = re.split(r"[/\\]", rest, maxsplit=1)[0]
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme) and authority:
        return f"{scheme}://{authority}"
    return REDACTED


def redaction_for(field: str) -> Callable[[str], str]:
    """Return how to redact the texts of a field, by its name: as a webhook, as one URL, or as free text."""
    if _WEBHOOK_FIELD.fullmatch(re.sub(r"[^a-z]", "", field.lower())):
        return redact_webhook
    # A field that holds one URL is cut as a whole: a blank in its path must not let the query behind it survive.
    return redact_url if _URL_FIELD.search(field) else redact_text
