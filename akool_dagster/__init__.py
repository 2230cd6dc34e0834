"""Akool Image to Video results in Dagster: polled in batches, landed as Parquet tables and verified videos."""

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
