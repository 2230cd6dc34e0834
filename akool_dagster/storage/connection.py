"""Clients of object stores (S3, Google Cloud, Azure): credentials, endpoint, timeouts, retries."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore import store as stores

from akool_dagster.storage.errors import StorageError, reason
from akool_dagster.storage.location import Location

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

CONNECT_SECONDS = 5.0
MAX_RETRIES = 5
MAX_BACKOFF_SECONDS = 5.0
ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL", "GOOGLE_ENDPOINT"),
    "az": ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"),
}

_processes: set[int] = set()
"""The processes of this memory that have used object storage: this one, and the one that it was forked from."""


def refuse_fork() -> None:
    """Raise `StorageError` in a process that was forked after its parent had used object storage.

    obstore's threads do not exist in such a process: a request would wait for ever.
    """
    _processes.add(os.getpid())
    if len(_processes) > 1:
        raise StorageError(
            "This process was forked from one that had used object storage, whose threads it lacks. Start processes "
            "with the method 'spawn' or 'forkserver'."
        )


def connect(location: Location, seconds: float) -> ObjectStore:
    """Return a client whose every request ends within so many seconds, its retries included.

    Raises `StorageError` for an environment that cannot work.
    """
    half = timedelta(seconds=seconds / 2)  # no retry begins after the first half; the last one has the second
    retry: RetryConfig = {
        "max_retries": MAX_RETRIES,
        "retry_timeout": half,
        "backoff": {
            "init_backoff": timedelta(seconds=min(0.1, MAX_BACKOFF_SECONDS)),
            "max_backoff": timedelta(seconds=MAX_BACKOFF_SECONDS),
        },
    }
    client: ClientConfig = {"timeout": half, "connect_timeout": min(half, timedelta(seconds=CONNECT_SECONDS))}
    if any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS[location.scheme]):
        client["allow_http"] = True
    options: dict[str, Any] = {
        "prefix": location.prefix or None,
        "config": {},
        "client_options": client,
        "retry_config": retry,
    }
    try:
        if location.scheme == "s3":
            return stores.S3Store(location.bucket, **options, **_s3_credentials())
        if location.scheme == "gs":
            return stores.GCSStore(location.bucket, **options)
        return stores.AzureStore(location.bucket, **options)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"Cannot open the storage root {location.shown}: {reason(error)}") from None


def _s3_credentials() -> dict[str, Any]:
    if os.environ.get("AWS_ACCESS_KEY_ID") or not os.environ.get("AWS_PROFILE"):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise StorageError(
            "AWS_PROFILE is set, and boto3 is not installed, which reads profiles: pip install "
            "'akool-dagster[s3-profile]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    return {"credential_provider": Boto3CredentialProvider()}
