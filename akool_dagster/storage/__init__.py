"""One root for every file: a folder on a local disk, or a prefix in object storage."""

from akool_dagster.storage.errors import (
    ChangedMeanwhileError,
    StorageError,
    StorageFullError,
    UnsupportedStorageError,
)
from akool_dagster.storage.files import NOTHING, STALE_SECONDS, Found, OsFiles
from akool_dagster.storage.location import refuse_credentials
from akool_dagster.storage.root import StorageRoot

__all__ = [
    "NOTHING",
    "STALE_SECONDS",
    "ChangedMeanwhileError",
    "Found",
    "OsFiles",
    "StorageError",
    "StorageFullError",
    "StorageRoot",
    "UnsupportedStorageError",
    "refuse_credentials",
]
