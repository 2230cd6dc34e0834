from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster.api.base_url import DEFAULT_BASE_URL
from akool_dagster.ledger import LedgerUrlError
from akool_dagster.ledger.database import parse_ledger_url
from akool_dagster.settings import SettingsError, ledger_url_from, settings_from
from akool_dagster.storage import StorageError, StorageRoot

HOME = {"DAGSTER_HOME": "/srv/dagster"}


def test_without_settings_everything_is_in_the_folder_of_dagster() -> None:
    settings = settings_from(HOME)
    assert settings.base_url == DEFAULT_BASE_URL == "https://openapi.akool.com"
    assert settings.storage_root == "/srv/dagster/akool"
    assert settings.ledger_url == "sqlite:////srv/dagster/akool/ledger.sqlite"


def test_every_variable_has_its_place() -> None:
    settings = settings_from(
        {
            "AKOOL_BASE_URL": "http://127.0.0.1:8123",
            "AKOOL_STORAGE": "/data/akool",
            "AKOOL_LEDGER_URL": "postgresql://user@db.example.com/akool",
        }
    )
    assert settings.base_url == "http://127.0.0.1:8123"
    assert settings.storage_root == "/data/akool"
    assert settings.ledger_url == "postgresql://user@db.example.com/akool"


@pytest.mark.parametrize("name", ["AKOOL_BASE_URL", "AKOOL_STORAGE", "AKOOL_LEDGER_URL"])
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    assert settings_from({**HOME, name: ""}) == settings_from(HOME)


def test_the_two_places_are_chosen_one_by_one() -> None:
    settings = settings_from({**HOME, "AKOOL_STORAGE": "s3://bucket/akool"})
    assert settings.storage_root == "s3://bucket/akool"
    assert settings.ledger_url == "sqlite:////srv/dagster/akool/ledger.sqlite"
    settings = settings_from({**HOME, "AKOOL_LEDGER_URL": "sqlite:////elsewhere/l.sqlite"})
    assert settings.storage_root == "/srv/dagster/akool"
    assert settings.ledger_url == "sqlite:////elsewhere/l.sqlite"


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        ({}, "AKOOL_STORAGE"),
        ({"DAGSTER_HOME": ""}, "AKOOL_STORAGE"),
        ({"AKOOL_STORAGE": "/data"}, "AKOOL_LEDGER_URL"),
        ({"AKOOL_LEDGER_URL": "sqlite:////data/l.sqlite"}, "AKOOL_STORAGE"),
    ],
)
def test_without_a_place_the_error_names_both_variables(environment: dict[str, str], missing: str) -> None:
    with pytest.raises(SettingsError, match=f"Neither {missing} nor DAGSTER_HOME is set. Set DAGSTER_HOME"):
        settings_from(environment)


def test_the_ledger_alone_needs_no_storage() -> None:
    assert ledger_url_from({"AKOOL_LEDGER_URL": "sqlite:////data/l.sqlite"}) == "sqlite:////data/l.sqlite"
    with pytest.raises(SettingsError, match="Neither AKOOL_LEDGER_URL nor DAGSTER_HOME is set"):
        ledger_url_from({})


@pytest.mark.parametrize("home", ["dagster", "./dagster", "../dagster"])
def test_a_relative_dagster_home_is_refused_with_the_absolute_form(home: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"DAGSTER_HOME": home})
    assert repr(home) in str(caught.value)
    assert str(Path(home).absolute()) in str(caught.value)


def test_a_home_directory_in_short_is_refused_with_the_long_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    with pytest.raises(SettingsError, match=r"Set it to /home/someone/dagster$"):
        settings_from({"DAGSTER_HOME": "~/dagster"})


@pytest.mark.parametrize("storage", ["data/akool", "./data", "file://data"])
def test_a_relative_storage_root_is_refused_with_the_absolute_form(storage: str) -> None:
    absolute = os.path.normpath(Path(storage.removeprefix("file://")).absolute())
    with pytest.raises(StorageError) as caught:
        settings_from({**HOME, "AKOOL_STORAGE": storage})
    assert repr(storage) in str(caught.value)
    assert absolute in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite:///ledger.sqlite", "ledger.sqlite", "sub/ledger.sqlite"])
def test_a_relative_ledger_is_refused_with_the_absolute_form(url: str) -> None:
    path = Path(url.removeprefix("sqlite:///")).absolute()
    with pytest.raises(LedgerUrlError) as caught:
        settings_from({**HOME, "AKOOL_LEDGER_URL": url})
    assert f"sqlite:///{path}" in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "not a url"])
def test_a_ledger_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(LedgerUrlError):
        ledger_url_from({"AKOOL_LEDGER_URL": url})


def test_a_storage_that_is_not_supported_is_refused() -> None:
    with pytest.raises(StorageError, match="cannot be at ftp://"):
        settings_from({**HOME, "AKOOL_STORAGE": "ftp://host/x"})


@pytest.mark.parametrize(
    "folder", ["with blank", "per%41cent", "question?mark", "hash#tag", "ü", "a+b", "a&b=c", "a:b@c"]
)
def test_a_home_with_characters_that_mean_something_in_a_url_is_taken_as_it_is(folder: str) -> None:
    try:
        url = ledger_url_from({"DAGSTER_HOME": f"/srv/{folder}"})
    except SettingsError as error:
        assert sa.__version__.startswith("2.0.") and folder == "question?mark", error
        return
    parsed = parse_ledger_url(url)
    assert parsed.database == f"/srv/{folder}/akool/ledger.sqlite"
    assert not parsed.query


def test_settings_hold_no_credentials() -> None:
    environment = {**HOME, "AKOOL_API_KEY": "key-1", "AKOOL_CLIENT_ID": "id-2", "AKOOL_CLIENT_SECRET": "secret-3"}
    shown = repr(settings_from(environment))
    assert not any(secret in shown for secret in ("key-1", "id-2", "secret-3"))


def test_the_storage_root_can_be_opened_as_it_is_given() -> None:
    assert StorageRoot(settings_from(HOME).storage_root).uri("akool/x") == "/srv/dagster/akool/akool/x"
