"""Settings from the environment, for the command line and the example project. Variables are read when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from akool_dagster.api.base_url import DEFAULT_BASE_URL
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.ledger.database import parse_ledger_url
from akool_dagster.storage import StorageRoot

API_KEY = "AKOOL_API_KEY"
CLIENT_ID = "AKOOL_CLIENT_ID"
CLIENT_SECRET = "AKOOL_CLIENT_SECRET"  # noqa: S105  (the variable's name)
BASE_URL = "AKOOL_BASE_URL"
STORAGE = "AKOOL_STORAGE"
LEDGER_URL = "AKOOL_LEDGER_URL"
DAGSTER_HOME = "DAGSTER_HOME"


class SettingsError(AkoolDagsterError):
    """A variable is missing or cannot be used as it is; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are. Credentials are not among them: those stay in the environment until a call is made."""

    base_url: str
    storage_root: str
    ledger_url: str


def settings_from(environment: Mapping[str, str]) -> Settings:
    """Return the settings, with a folder ``akool`` in ``$DAGSTER_HOME`` for what is not set.

    An empty variable counts as unset. Raises `SettingsError`, `LedgerUrlError` or `StorageError`.
    """
    storage_root = environment.get(STORAGE) or str(_home_folder(environment, STORAGE))
    StorageRoot(storage_root)
    ledger_url = ledger_url_from(environment)
    return Settings(
        base_url=environment.get(BASE_URL) or DEFAULT_BASE_URL, storage_root=storage_root, ledger_url=ledger_url
    )


def ledger_url_from(environment: Mapping[str, str]) -> str:
    """Return the ledger's URL, checked, by the same rules."""
    url = environment.get(LEDGER_URL) or _sqlite_url(_home_folder(environment, LEDGER_URL) / "ledger.sqlite")
    parse_ledger_url(url)
    return url


def _sqlite_url(path: Path) -> str:
    url = sa.URL.create("sqlite", database=str(path)).render_as_string()  # escapes what a URL gives a meaning to
    if parse_ledger_url(url).database != str(path):  # SQLAlchemy 2.0 escapes less than 2.1
        raise SettingsError(f"No SQLAlchemy URL can name {path}. Choose another {DAGSTER_HOME}, or set {LEDGER_URL}.")
    return url


def _home_folder(environment: Mapping[str, str], variable: str) -> Path:
    home = environment.get(DAGSTER_HOME)
    if not home:
        raise SettingsError(
            f"Neither {variable} nor {DAGSTER_HOME} is set. Set {DAGSTER_HOME} to the folder of your Dagster "
            f"deployment, or {variable} to a place of its own."
        )
    if not Path(home).is_absolute():
        raise SettingsError(
            f"{DAGSTER_HOME} is the relative path {home!r}. Set it to {Path(home).expanduser().absolute()}"
        )
    return Path(home) / "akool"
