"""Clients of object stores: credentials and endpoint from the environment, every wait bounded."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore import store as stores

from akool_dagster.storage.errors import StorageError
from akool_dagster.storage.location import Location, without_credentials

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
NO_CREDENTIALS = (
    "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with "
    "pip install 'akool-dagster[s3-profile]', or run where the machine has a role"
)

_forked = threading.Event()
_used = threading.Event()


def _note_fork() -> None:
    if _used.is_set():
        _forked.set()


os.register_at_fork(after_in_child=_note_fork)


def refuse_fork() -> None:
    """Raise `StorageError` in a process that was forked after its parent had used object storage.

    obstore's threads do not exist there: a request would wait for ever.
    """
    if _forked.is_set():
        raise StorageError(
            "This process was forked from one that had used object storage, whose threads it lacks. Start processes "
            "with the method 'spawn' or 'forkserver'."
        )
    _used.set()


def connect(location: Location, seconds: float, environment: Mapping[str, str] = os.environ) -> ObjectStore:
    """Return a client whose every request ends within so many seconds, its retries included.

    Raises `StorageError` for an environment that cannot work.
    """
    refuse_fork()
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
    if any(environment.get(name, "").startswith("http://") for name in ENDPOINTS[location.scheme]):
        client["allow_http"] = True
    options: dict[str, Any] = {
        "prefix": location.prefix or None,
        "config": {},
        "client_options": client,
        "retry_config": retry,
    }
    try:
        if location.scheme == "s3":
            return stores.S3Store(location.bucket, **options, **_s3_credentials(environment))
        if location.scheme == "gs":
            return stores.GCSStore(location.bucket, **options)
        return stores.AzureStore(location.bucket, **options)
    except StorageError:
        raise
    except Exception as error:
        raise StorageError(f"Cannot open the storage root {location.shown}: {reason(error)}") from None


def _s3_credentials(environment: Mapping[str, str]) -> dict[str, Any]:
    if environment.get("AWS_ACCESS_KEY_ID") or not environment.get("AWS_PROFILE"):
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise StorageError(
            "AWS_PROFILE is set, and boto3 is not installed, which reads profiles: pip install "
            "'akool-dagster[s3-profile]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from None
    return {"credential_provider": Boto3CredentialProvider()}


#: What a client's error has in it, and what it means. The first that fits is told.
_REASONS = (
    (re.compile(r"169\.254\.169\.254|/latest/api/token|/latest/meta-data"), NO_CREDENTIALS),
    (re.compile(r"kind: Connect\b"), "no connection to the storage's endpoint could be made"),
    (re.compile(r"kind: Timeout\b"), "the storage did not answer in time"),
    (re.compile(r"kind: (?:Interrupted|Request|Decode)\b"), "the connection to the storage broke"),
)
_MESSAGE = re.compile(r"<Message>(.*?)</Message>|\"message\":\s*\"(.*?)\"", re.DOTALL)
_STATUS = re.compile(r"status code: ([0-9]{3}[A-Za-z ]*)")


def reason(error: BaseException) -> str:
    """Return what an error of a client says, as one sentence without URLs, headers and credentials."""
    text = str(error)
    said = _MESSAGE.search(text)
    status = _STATUS.search(text)
    if said is not None:
        cause = next(group for group in said.groups() if group is not None)
    elif status is not None:
        cause = f"the storage answered {status[1].strip()}"
    else:
        known = (meaning for pattern, meaning in _REASONS if pattern.search(text))
        cause = next(known, text.partition("\n\nDebug source")[0])
    # An answer may quote the request, whose URL is signed on Azure.
    return re.sub(r"\s+", " ", without_credentials(cause)).strip()[:300] or type(error).__name__
