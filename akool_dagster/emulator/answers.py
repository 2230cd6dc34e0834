"""What goes back to a client: Akool's JSON envelopes, and files with byte ranges as a CDN sends them. No effects."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate

from akool_dagster.emulator.mp4 import Video

# Python refuses to convert numbers of thousands of digits, and a range that is not understood is ignored.
_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One HTTP answer; ``code`` is Akool's own code in the body, where it has one."""

    http_status: int | None = 200
    """None when not even a status line is sent."""
    body: bytes = b""
    media_type: str = "application/json"
    code: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def with_headers(self, headers: Mapping[str, str]) -> Answer:
        """Return the same answer with more headers."""
        return replace(self, headers={**self.headers, **headers})


def envelope(code: int, msg: str, **fields: object) -> Answer:
    """Return Akool's envelope, which is HTTP 200 for business errors too."""
    body = json.dumps({"code": code, "msg": msg, **fields}, separators=(",", ":")).encode()
    return Answer(body=body, code=code)


def gateway_error(http_status: int, reason: str) -> Answer:
    """Return the HTML page that a proxy in front of the API sends."""
    page = f"<html><head><title>{http_status} {reason}</title></head><body><h1>{reason}</h1></body></html>"
    return Answer(http_status=http_status, body=page.encode(), media_type="text/html")


def storage_error(http_status: int, code: str, message: str) -> Answer:
    """Return the XML document that a CDN passes on from the storage behind it."""
    document = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(http_status=http_status, body=document.encode(), media_type="application/xml")


def redirection(location: str) -> Answer:
    """Return a redirect to another place, which may be relative to the one asked for."""
    return Answer(http_status=302, media_type="text/html", headers={"Location": location})


def cut(answer: Answer) -> Answer:
    """Return the answer with half of its body, as a whole HTTP body: JSON that ends in the middle."""
    return replace(answer, body=answer.body[: len(answer.body) // 2], code=None)


def without_data(answer: Answer) -> Answer:
    """Return a successful envelope whose data is null; any other answer as it is."""
    return envelope(1000, "OK", data=None) if answer.code == 1000 else answer


def access_denied() -> Answer:
    """Return what the CDN says about a file whose lifetime is over."""
    return storage_error(403, "AccessDenied", "Access Denied")


def file_answer(video: Video, *, modified_ms: int, range_header: str | None, if_range: str | None) -> Answer:
    """Return the file or the asked part of it: 200, 206, or 416 for a range that starts after its end.

    As RFC 9110 allows, a range that is malformed, manifold, or made for another version of the file (``If-Range``)
    is ignored.
    """
    modified = formatdate(modified_ms // 1000, usegmt=True)
    whole = Answer(
        body=video.content,
        media_type="video/mp4",
        headers={"ETag": video.etag, "Accept-Ranges": "bytes", "Last-Modified": modified},
    )
    size = len(video.content)
    asked = _ONE_RANGE.fullmatch(range_header.strip()) if range_header is not None else None
    if asked is None or asked.groups() == ("", "") or if_range not in (None, video.etag, modified):
        return whole
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if first and last and int(last) < start:
        return whole
    if start >= size or (not first and int(last) == 0):
        refusal = storage_error(416, "InvalidRange", "The requested range is not satisfiable")
        return refusal.with_headers({"Content-Range": f"bytes */{size}"})
    part = replace(whole, http_status=206, body=video.content[start : end + 1])
    return part.with_headers({"Content-Range": f"bytes {start}-{end}/{size}"})
