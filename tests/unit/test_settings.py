from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from akool_dagster.api.base_url import DEFAULT_BASE_URL
from akool_dagster.ledger import LedgerUrlError
from akool_dagster.ledger.database import parse_ledger_url
from akool_dagster.settings import Settings, SettingsError, ledger_url_from, settings_from
from akool_dagster.storage import StorageError

HOME = {"DAGSTER_HOME": "/srv/dagster"}
AT_HOME = {
    "base_url": "https://openapi.akool.com",
    "storage_root": "/srv/dagster/akool",
    "ledger_url": "sqlite:////srv/dagster/akool/ledger.sqlite",
}
VARIABLES = {"base_url": "AKOOL_BASE_URL", "storage_root": "AKOOL_STORAGE", "ledger_url": "AKOOL_LEDGER_URL"}
GIVEN = {
    "base_url": "http://127.0.0.1:8123",
    "storage_root": "s3://bucket/akool",
    "ledger_url": "postgresql://user@db.example.com/akool",
}
HERE = Path().absolute()


def test_without_settings_everything_is_in_the_folder_of_dagster() -> None:
    assert settings_from(HOME) == Settings(**AT_HOME)
    assert AT_HOME["base_url"] == DEFAULT_BASE_URL


@pytest.mark.parametrize("name", VARIABLES)
def test_each_variable_has_its_place_and_an_empty_one_counts_as_unset(name: str) -> None:
    assert settings_from({**HOME, VARIABLES[name]: GIVEN[name]}) == Settings(**AT_HOME | {name: GIVEN[name]})
    assert settings_from({**HOME, VARIABLES[name]: ""}) == Settings(**AT_HOME)


def test_without_a_folder_of_dagster_the_other_variables_are_enough() -> None:
    everything = {VARIABLES[name]: value for name, value in GIVEN.items()}
    assert settings_from(everything) == Settings(**GIVEN)
    assert ledger_url_from({"AKOOL_LEDGER_URL": GIVEN["ledger_url"]}) == GIVEN["ledger_url"]


REFUSED: list[tuple[dict[str, str], type[Exception], str]] = [
    ({}, SettingsError, "Neither AKOOL_STORAGE nor DAGSTER_HOME is set. Set DAGSTER_HOME"),
    ({"DAGSTER_HOME": ""}, SettingsError, "Neither AKOOL_STORAGE nor DAGSTER_HOME is set. Set DAGSTER_HOME"),
    ({"AKOOL_STORAGE": "/data"}, SettingsError, "Neither AKOOL_LEDGER_URL nor DAGSTER_HOME is set"),
    ({"AKOOL_LEDGER_URL": "sqlite:////data/l.sqlite"}, SettingsError, "Neither AKOOL_STORAGE nor DAGSTER_HOME is set"),
    ({"DAGSTER_HOME": "../dagster"}, SettingsError, f"relative path '../dagster'. Set it to {HERE}/../dagster"),
    ({"DAGSTER_HOME": "~/dagster"}, SettingsError, "Set it to /home/someone/dagster"),
    ({**HOME, "AKOOL_STORAGE": "./data"}, StorageError, f"{HERE}/data"),
    ({**HOME, "AKOOL_STORAGE": "file://data"}, StorageError, f"{HERE}/data"),
    ({**HOME, "AKOOL_STORAGE": "ftp://host/x"}, StorageError, "cannot be at ftp://"),
    ({**HOME, "AKOOL_LEDGER_URL": "sqlite:///ledger.sqlite"}, LedgerUrlError, f"sqlite:///{HERE}/ledger.sqlite"),
    ({**HOME, "AKOOL_LEDGER_URL": "sub/ledger.sqlite"}, LedgerUrlError, f"sqlite:///{HERE}/sub/ledger.sqlite"),
    ({**HOME, "AKOOL_LEDGER_URL": "sqlite:///:memory:"}, LedgerUrlError, ""),
    ({**HOME, "AKOOL_LEDGER_URL": "mysql://host/db"}, LedgerUrlError, ""),
    ({**HOME, "AKOOL_LEDGER_URL": "not a url"}, LedgerUrlError, ""),
]


@pytest.mark.parametrize(("environment", "error", "words"), REFUSED, ids=str)
def test_what_cannot_work_is_refused_with_what_to_set(
    environment: dict[str, str], error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    with pytest.raises(error) as caught:
        settings_from(environment)
    assert words in str(caught.value)


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
