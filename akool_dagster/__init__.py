"""Akool Image to Video results in Dagster: polled in batches, landed as Parquet tables and verified videos."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akool_dagster.api.client import AkoolClient
    from akool_dagster.definitions import build_akool_definitions
    from akool_dagster.errors import AkoolDagsterError
    from akool_dagster.io_manager import ParquetIOManager
    from akool_dagster.ledger import JobLedger, TrackRequest
    from akool_dagster.resources import AkoolResource, JobLedgerResource, VideoStoreResource
    from akool_dagster.tables import TABLES

__version__ = "0.1.0"

__all__ = [
    "TABLES",
    "AkoolClient",
    "AkoolDagsterError",
    "AkoolResource",
    "JobLedger",
    "JobLedgerResource",
    "ParquetIOManager",
    "TrackRequest",
    "VideoStoreResource",
    "build_akool_definitions",
]

_HOMES = {
    "AkoolClient": "api.client",
    "build_akool_definitions": "definitions",
    "AkoolDagsterError": "errors",
    "ParquetIOManager": "io_manager",
    "JobLedger": "ledger",
    "TrackRequest": "ledger",
    "AkoolResource": "resources",
    "JobLedgerResource": "resources",
    "VideoStoreResource": "resources",
    "TABLES": "tables",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for.

    Importing Dagster takes seconds; the client, the ledger and the command line work without it.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
