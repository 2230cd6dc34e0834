"""Credentials and base URL: what is refused before any call, and that nothing is shown."""

from __future__ import annotations

import pytest

from akool_dagster.api.base_url import checked_base_url
from akool_dagster.api.credentials import ApiKey, ClientCredentials, Token, credentials_from
from akool_dagster.api.errors import AkoolConfigurationError

SECRET = "S3CR3T"


def test_the_key_wins_over_the_pair_and_over_half_of_one() -> None:
    assert credentials_from("key", "id", "secret") == ApiKey("key")
    assert credentials_from("key", "id", None) == ApiKey("key")


def test_without_a_key_the_pair_is_used() -> None:
    assert credentials_from("", "id", "secret") == ClientCredentials("id", "secret")


@pytest.mark.parametrize("pair", [(None, None), ("", ""), ("id", None), (None, "secret"), ("id", "")])
def test_half_a_pair_or_nothing_names_every_variable(pair: tuple[str | None, str | None]) -> None:
    with pytest.raises(AkoolConfigurationError) as caught:
        credentials_from(None, *pair)
    for variable in ("AKOOL_API_KEY", "AKOOL_CLIENT_ID", "AKOOL_CLIENT_SECRET"):
        assert variable in str(caught.value)


def test_half_a_pair_names_the_missing_half() -> None:
    with pytest.raises(AkoolConfigurationError, match="AKOOL_CLIENT_SECRET is missing"):
        credentials_from(None, "id", None)
    with pytest.raises(AkoolConfigurationError, match="AKOOL_CLIENT_ID is missing"):
        credentials_from(None, None, "secret")


@pytest.mark.parametrize("spoiled", [SECRET + "\n", " " + SECRET, f"{SECRET}\r\nx: y", f"{SECRET}€", f"a {SECRET}", ""])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(spoiled: str) -> None:
    for make in (ApiKey, lambda value: ClientCredentials("id", value), lambda value: ClientCredentials(value, "s")):
        with pytest.raises(AkoolConfigurationError, match="AKOOL_") as caught:
            make(spoiled)
        assert SECRET not in str(caught.value)


def test_no_repr_shows_a_secret() -> None:
    for value in (ApiKey(SECRET), ClientCredentials(SECRET, SECRET), Token(SECRET)):
        assert SECRET not in f"{value!r} {value}"


@pytest.mark.parametrize(
    "url",
    [
        "https://openapi.akool.com",
        "https://gateway.example:8443/akool/",
        "http://127.0.0.1:8000",
        "http://localhost:8000/",
        "http://[::1]:8000",
    ],
)
def test_https_and_loopback_are_accepted(url: str) -> None:
    assert checked_base_url(url)[0] == url.rstrip("/")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://openapi.akool.com", "unencrypted"),
        ("http://127.0.0.1.example.com", "unencrypted"),
        ("http://10.0.0.1", "unencrypted"),
        ("ftp://openapi.akool.com", "not a URL"),
        ("openapi.akool.com", "not a URL"),
        ("https://", "not a URL"),
        ("https://[::1", "not a URL"),
        ("https://host.example:port", "not a URL"),
        ("https://ho st.example", "not a URL"),
        (f"https://user:{SECRET}@host.example", "user-info"),
        (f"https://host.example?key={SECRET}", "query"),
        ("", "not a URL"),
    ],
)
def test_any_other_base_url_is_refused_without_being_shown(url: str, complaint: str) -> None:
    with pytest.raises(AkoolConfigurationError, match=complaint) as caught:
        checked_base_url(url)
    assert "AKOOL_BASE_URL" in str(caught.value)
    assert SECRET not in str(caught.value)
