"""Classifies one HTTP answer of Akool: the envelope to use, or the error that says what to do. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from akool_dagster.api.codes import CodeFact, Reaction, fact_for
from akool_dagster.api.errors import (
    AkoolAccountError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
)
from akool_dagster.api.json_text import decode_json

_ADVICE: Mapping[Reaction, str] = {
    Reaction.CONTENT: "An id of this call is unknown to Akool, gone, or another account's. Check the id.",
    Reaction.THROTTLED: "Akool wants fewer calls. They go on by themselves a little later.",
    Reaction.TRANSIENT: "This passes by itself; the call is repeated later.",
    Reaction.REAUTHENTICATE: "Akool refused the credentials. Check {variables}.",
    Reaction.CREDENTIALS: "Akool does not know the credentials. Check {variables}.",
    Reaction.ACCOUNT: "Akool bars this account. Settle it at akool.com; until then every job stays pending.",
    Reaction.QUOTA: "The account has no credits left. Top it up at akool.com; every job stays pending.",
    Reaction.JOB: "This code is not expected here. Every job stays pending; report it if it goes on.",
    Reaction.UNKNOWN: "This version does not know the code. Every job stays pending; try a newer one.",
}
_LEAVES: Mapping[Reaction, type[AkoolError]] = {
    Reaction.CONTENT: AkoolContentError,
    Reaction.TRANSIENT: AkoolTransientError,
    Reaction.REAUTHENTICATE: AkoolCredentialsError,
    Reaction.CREDENTIALS: AkoolCredentialsError,
    Reaction.ACCOUNT: AkoolAccountError,
    Reaction.QUOTA: AkoolAccountError,
    Reaction.JOB: AkoolResponseError,
    Reaction.UNKNOWN: AkoolResponseError,
}


_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32  # told apart by the first bytes


@dataclass(frozen=True)
class HttpAnswer:
    """What came back over HTTP: status, whole body, and the ``Retry-After`` header when there was one."""

    status: int
    body: bytes
    retry_after: str | None = None


def uncompressed(body: bytes, encoding: str | None, at_most: int) -> bytes:
    """Return a body without its gzip or zlib compression, of which we asked for none; at most so many bytes of it.

    What is packed in another way, or more than once, or damaged stays as it is: that is no JSON.
    """
    if (encoding or "").strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, at_most)
    except zlib.error:
        return body


def retry_after_seconds(header: str | None, now_ms: int) -> float | None:
    """Return the seconds a ``Retry-After`` header (number or HTTP date) asks for, if readable."""
    if header is None:
        return None
    if number := re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]*)?)\s*", header):
        return float(number[1])
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    # An HTTP date is GMT by definition; "-0000" parses to a naive time, which would be read as local time.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now_ms / 1000)


def classify_response(
    answer: HttpAnswer,
    *,
    now_ms: int,
    variables: str,
    redact: Callable[[str], str] = str,
) -> Mapping[str, object] | AkoolError:
    """Return the envelope of a successful answer, or the error to raise.

    A known code counts whatever the HTTP status: Akool sends business errors with HTTP 200. ``variables``
    names what to check when the credentials are refused; ``redact`` takes secrets out of text that the
    server sent.
    """
    envelope = _decoded(answer.body)
    retry_after = retry_after_seconds(answer.retry_after, now_ms)
    code = _code(envelope)
    fact = None if code is None else fact_for(code)
    if isinstance(envelope, Mapping) and fact is not None and fact.reaction is not Reaction.UNKNOWN:
        if fact.reaction is Reaction.SUCCESS:
            return envelope
        message = _sentence(fact, envelope, variables, redact)
        if fact.reaction is Reaction.THROTTLED:
            return AkoolThrottledError(message, code=code, retry_after=retry_after)
        return _LEAVES[fact.reaction](message, code=code)

    status = answer.status
    if status == 429 or (status >= 500 and retry_after is not None):
        advice = _ADVICE[Reaction.THROTTLED]
        return AkoolThrottledError(f"Akool answered HTTP {status}. {advice}", code=code, retry_after=retry_after)
    if status in (401, 403):
        return AkoolCredentialsError(
            f"HTTP {status} came back without a code of Akool's: the credentials were refused, or something on the "
            f"way blocks the call. Check {variables}, then firewall and proxy.",
            code=code,
        )
    if status >= 500 or status == 408:
        advice = _ADVICE[Reaction.TRANSIENT]
        return AkoolTransientError(f"Akool answered HTTP {status}. {advice}", code=code)
    if 300 <= status < 400:
        return AkoolResponseError(
            f"HTTP {status} redirects elsewhere, which is not followed so that the key does not travel. "
            "Check AKOOL_BASE_URL.",
        )
    if status >= 400:
        return AkoolResponseError(
            f"HTTP {status} came back without a known code of Akool's. Check AKOOL_BASE_URL.",
            code=code,
        )
    if fact is not None and isinstance(envelope, Mapping):
        return AkoolResponseError(_sentence(fact, envelope, variables, redact), code=code)
    if envelope is None:
        return AkoolTransientError(
            f"HTTP {status} came back with a body that is not JSON, perhaps from a gateway on the way. "
            + _ADVICE[Reaction.TRANSIENT],
        )
    return AkoolResponseError("The answer is JSON but has no code, so it is not Akool's. Check AKOOL_BASE_URL.")


def _decoded(body: bytes) -> object:
    try:
        return decode_json(body)
    except (ValueError, RecursionError):
        return None


def _code(envelope: object) -> int | None:
    code = envelope.get("code") if isinstance(envelope, Mapping) else None
    if isinstance(code, str) and re.fullmatch(r"[0-9]{1,9}", code):
        return int(code)
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _sentence(fact: CodeFact, envelope: Mapping[object, object], variables: str, redact: Callable[[str], str]) -> str:
    said = envelope.get("msg")
    words = f', saying "{redact(said)}"' if isinstance(said, str) and said.strip() else ""
    return f"Akool answered {fact.code} ({fact.meaning}){words}. {_ADVICE[fact.reaction].format(variables=variables)}"
