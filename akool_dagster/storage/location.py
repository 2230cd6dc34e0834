"""Where a storage root can be, and which paths lie below one: checks of URLs and of relative paths."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from akool_dagster.storage.errors import StorageError

PART = re.compile(r"[A-Za-z0-9._:=-]+")
SCHEMES = ("s3", "gs", "az")
"""Amazon S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage."""

_FORMS = "an absolute path, or s3://bucket/folder, gs://bucket/folder or az://container/folder"
_CREDENTIALS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or another of AZURE_*",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A root that has been checked: a folder on a disk, or a prefix in a bucket."""

    shown: str
    """For people; without credentials."""
    scheme: str = ""
    """One of `SCHEMES`; empty for a disk."""
    bucket: str = ""
    """The bucket, or Azure's container."""
    prefix: str = ""
    """Without a slash at either end."""

    @property
    def is_local(self) -> bool:
        """Whether the root is on a disk; ``shown`` is its path then."""
        return not self.scheme


def parse_root(url: str) -> Location:
    """Return where a storage root is. Reads nothing.

    Raises `StorageError` for a relative path, naming the absolute form, for credentials in a URL, for a scheme that is
    not supported, and for a URL without a bucket.
    """
    refuse_credentials(url)
    if not url.strip() or "\0" in url:
        raise StorageError(f"The storage root is empty. Give {_FORMS}.")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        return _local(url, rest if separator else url)
    if scheme not in SCHEMES:
        raise StorageError(f"A storage root cannot be at {scheme}://. Give {_FORMS}.")
    bucket, _, prefix = rest.rstrip("/").partition("/")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", bucket):
        raise StorageError(f"The storage root {url} names no bucket. Write it as {scheme}://bucket/folder.")
    if prefix and any(part in ("", ".", "..") for part in prefix.split("/")):
        raise StorageError(f"The folder in the storage root {url} has a part that is empty, '.' or '..'.")
    return Location(shown=url.rstrip("/"), scheme=scheme, bucket=bucket, prefix=prefix)


def refuse_credentials(url: str) -> None:
    """Raise `StorageError` for a storage URL that may hold a password or a signature; the message leaves the URL out.

    Dagster's UI shows the URL of a storage root.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or (scheme == "file" and rest.startswith("/")):
        return
    # A bucket has no port: in "s3://key:12/34@bucket" it is a password that goes on after the slash.
    if re.search(r"[?#]", url) or re.search(r"[@:]", rest.partition("/")[0]):
        variables = _CREDENTIALS.get(scheme, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        raise StorageError(
            f"The {scheme}:// URL of the storage root has a user or password, a port, a query or a fragment in it, "
            f"which Dagster's UI would show. Leave it out and give credentials in the environment: {variables}."
        )


def checked(relative: str) -> str:
    """Return a path below the root unchanged. Raises `StorageError` for a path that is not plain."""
    parts = relative.split("/")
    if any(part in (".", "..") or not PART.fullmatch(part) for part in parts):
        raise StorageError(f"{relative!r} is not a path below the storage root: its parts match {PART.pattern}.")
    return relative


def _local(url: str, path: str) -> Location:
    if not Path(path).is_absolute():
        absolute = os.path.normpath(Path(path).expanduser().absolute())
        raise StorageError(f"The storage root {url!r} is a relative path. Write it as {absolute}")
    return Location(shown=os.path.normpath(path))
