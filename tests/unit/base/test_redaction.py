"""Secrets are taken out of text."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akool_dagster.base.redaction import redact_text, redact_url, redact_webhook

SECRET = "S3CR3T"
HOST = st.sampled_from(["cdn.example", "example.com:8443", "10.1.2.3", "[2001:db8::1]:80", "münchen.example"])
PATH = st.text(string.ascii_letters + string.digits + "-._~%!$&'()*+,;=:@/", max_size=20)
SECRET_URL = st.builds(
    "{}://{}{}{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS", "s3", "postgresql+psycopg2"]),
    st.sampled_from(["", f"{SECRET}@", f"user:{SECRET}@", f"{SECRET}:x@y@"]),
    HOST,
    PATH.map(lambda path: "/" + path.lstrip("/")),
    st.sampled_from([f"?token={SECRET}", f"?a=1&b={SECRET}?x", f"??{SECRET}", f"?{SECRET}://{SECRET}@h/"]),
    st.sampled_from(["", f"#{SECRET}", "#"]),
)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://cdn.example/a%20b.png?X-Amz-Signature=S3CR3T", "https://cdn.example/a%20b.png"),
        ("https://user:S3CR3T@cdn.example:8443/a.png#S3CR3T", "https://cdn.example:8443/a.png"),
        ("https://cdn.example/a b.png?token=S3CR3T and more", "https://cdn.example/a b.png"),
        ("https://proxy.example/https://user:S3CR3T@cdn.example/a", "https://proxy.example/https://cdn.example/a"),
        ("https://user:S3/CR3T@cdn.example/", "https://[redacted]/CR3T@cdn.example/"),
        ("//user:S3CR3T@cdn.example/a?S3CR3T", "//cdn.example/a"),
        ("/files/a.png?token=S3CR3T", "/files/a.png"),
        ("https://[::1", "https://[redacted]"),
        ("", ""),
    ],
)
def test_a_url_keeps_scheme_host_and_path_only(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


@given(SECRET_URL)
def test_no_query_fragment_or_user_info_survives(url: str) -> None:
    assert SECRET not in redact_url(url)
    assert redact_text(url) == redact_url(url)


@given(st.text() | SECRET_URL)
def test_redacting_twice_changes_nothing(text: str) -> None:
    for redact in (redact_url, redact_text, redact_webhook):
        assert redact(redact(text)) == redact(text)


@given(st.text().filter(lambda text: "://" not in text))
def test_text_without_a_url_is_unchanged(text: str) -> None:
    assert redact_text(text) == text


@given(st.text(string.ascii_letters + " ,.!?", max_size=20), SECRET_URL, st.text(string.ascii_letters, max_size=9))
def test_words_around_a_url_stay(before: str, url: str, after: str) -> None:
    assert redact_text(f"{before} {url} {after}?") == f"{before} {redact_url(url)} {after}?"


@pytest.mark.parametrize(
    ("webhook", "redacted"),
    [
        ("https://user:S3CR3T@hooks.example:8443/S3CR3T?token=S3CR3T", "https://hooks.example:8443"),
        ("http://[2001:db8::1]/S3CR3T", "http://[2001:db8::1]"),
        ("https://hooks.example\\S3CR3T", "https://hooks.example"),
        ("hooks.example/S3CR3T", "[redacted]"),
        ("https:///S3CR3T", "[redacted]"),
        ("", ""),
    ],
)
def test_a_webhook_keeps_scheme_and_host_only(webhook: str, redacted: str) -> None:
    assert redact_webhook(webhook) == redacted
