"""How one HTTP answer is classified."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from akool_dagster.api.answers import HttpAnswer, classify_response, retry_after_seconds
from akool_dagster.api.codes import CODES, CodeFact, Reaction
from akool_dagster.api.errors import (
    AkoolAccountError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
)

NOW_MS = 1_760_000_000_000  # 2025-10-09 08:53:20 UTC


def verdict(status: int, body: object, retry_after: str | None = None) -> Mapping[str, object] | AkoolError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_response(HttpAnswer(status, raw, retry_after), now_ms=NOW_MS, variables="AKOOL_API_KEY")


@pytest.mark.parametrize("code", [1000, "1000"])
@pytest.mark.parametrize("message", [{}, {"msg": None}, {"msg": "please be patient"}])
def test_code_1000_alone_is_success(code: object, message: dict[str, object]) -> None:
    envelope = {"code": code, **message, "data": None}
    assert verdict(200, envelope) == envelope


@pytest.mark.parametrize("code", [None, True, 0, "OK", "", 1000.5, [1000], {"code": 1000}])
def test_http_200_without_code_1000_is_no_success(code: object) -> None:
    assert isinstance(verdict(200, {"code": code, "msg": "OK", "data": {"result": []}}), AkoolResponseError)


LEAF = {
    Reaction.CONTENT: AkoolContentError,
    Reaction.THROTTLED: AkoolThrottledError,
    Reaction.TRANSIENT: AkoolTransientError,
    Reaction.REAUTHENTICATE: AkoolCredentialsError,
    Reaction.CREDENTIALS: AkoolCredentialsError,
    Reaction.ACCOUNT: AkoolAccountError,
    Reaction.QUOTA: AkoolAccountError,
    Reaction.JOB: AkoolResponseError,
}


@pytest.mark.parametrize(
    "fact", [fact for fact in CODES.values() if fact.code != 1000], ids=lambda fact: str(fact.code)
)
def test_a_known_code_counts_whatever_the_http_status(fact: CodeFact) -> None:
    for status in (200, 302, 400, 403, 429, 500):
        error = verdict(status, {"code": fact.code, "msg": "x"})
        assert type(error) is LEAF[fact.reaction]
        assert isinstance(error, AkoolError)
        assert error.code == fact.code
        assert f"{fact.code} ({fact.meaning})" in error.message


@pytest.mark.parametrize(
    ("status", "body", "leaf"),
    [
        (200, b"<html>hello</html>", AkoolTransientError),
        (200, b"", AkoolTransientError),
        (200, b"\xff\xfe\xfa", AkoolTransientError),
        (200, b"[" * 100_000, AkoolTransientError),
        (200, [], AkoolResponseError),
        (200, {}, AkoolResponseError),
        (200, {"code": 4711}, AkoolResponseError),
        (302, b"", AkoolResponseError),
        (400, b"<html>", AkoolResponseError),
        (404, {"error": "no route"}, AkoolResponseError),
        (401, b"", AkoolCredentialsError),
        (403, {"code": 4711}, AkoolCredentialsError),
        (408, b"", AkoolTransientError),
        (429, b"", AkoolThrottledError),
        (429, {"code": 4711}, AkoolThrottledError),
        (500, {"code": 4711}, AkoolTransientError),
        (502, b"<html>", AkoolTransientError),
    ],
)
def test_without_a_known_code_the_http_status_decides(status: int, body: object, leaf: type[AkoolError]) -> None:
    assert type(verdict(status, body)) is leaf


@pytest.mark.parametrize("status", [429, 503])
def test_an_http_throttle_carries_the_wait_akool_asked_for(status: int) -> None:
    error = verdict(status, b"", "17")
    assert isinstance(error, AkoolThrottledError)
    assert error.retry_after == 17.0


def test_a_credentials_error_names_the_variable_to_fix() -> None:
    for status, body in ((200, {"code": 1109}), (401, b"")):
        error = verdict(status, body)
        assert isinstance(error, AkoolCredentialsError)
        assert "Check AKOOL_API_KEY" in error.message


def test_what_the_server_says_is_quoted_after_secrets_are_taken_out_and_never_formatted() -> None:
    answer = HttpAnswer(200, json.dumps({"code": 1109, "msg": "no {variables} for S3CR3T {0}"}).encode())
    error = classify_response(
        answer, now_ms=NOW_MS, variables="V", redact=lambda text: text.replace("S3CR3T", "[hidden]")
    )
    assert isinstance(error, AkoolError)
    assert 'saying "no {variables} for [hidden] {0}"' in error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 12 ", 12.0),
        ("1.5", 1.5),
        ("Thu, 09 Oct 2025 08:54:20 GMT", 60.0),
        ("Thu, 09 Oct 2025 08:54:20 -0000", 60.0),
        ("Thu, 09 Oct 2025 10:54:20 +0200", 60.0),
        ("Thu, 09 Oct 2025 08:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("1e9", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW_MS) == seconds


@given(st.text())
@example("0\x1f")  # a blank to `str.strip` and to patterns, and none to `float`
def test_a_nonsense_retry_after_is_ignored_and_not_raised(header: str) -> None:
    seconds = retry_after_seconds(header, NOW_MS)
    assert seconds is None or seconds >= 0


@given(st.integers(100, 599), st.binary())
def test_no_answer_makes_the_classification_fail(status: int, body: bytes) -> None:
    assert isinstance(verdict(status, body), AkoolError)
