"""Files behind an fsspec URL: whole objects, in bounded time and memory, none put over one that nobody looked at."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError

PARTIAL_SUFFIX = ".partial"
PART_BYTES = 8 * 1024**2
"""Of an upload; a thread holds at most two of them in memory. s3fs by itself takes up to 500 MB for each file."""
UPLOAD_SECONDS = 120.0
"""What any upload may take, the driver's retries included, and then a second for each `LEAST_BYTES_PER_SECOND`."""
LEAST_BYTES_PER_SECOND = 128 * 1024
READ_SECONDS = 300.0
"""What listing a folder or reading one object may take: a day's table is read in seconds."""
LOOK_SECONDS = 60.0
"""What looking at one object may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What is known of an fsspec driver whose ``put_file`` shows an object only once all of it has arrived."""

    package: str
    """What ``pip install`` takes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the file system."""
    upload: Mapping[str, Any] = field(default_factory=dict)
    """Options of ``put_file``."""
    conditional: bool = False
    """Whether ``put_file`` passes ``IfMatch`` and ``IfNoneMatch`` on."""


# One request at a time for each file. Of several parts one may fail, and s3fs aborts the upload while the others
# still arrive, which then stay; of several ranges that are read, some may be of an object that replaced the first.
S3 = Driver(
    package="akool-dagster[s3]", options={"max_concurrency": 1}, upload={"chunksize": PART_BYTES}, conditional=True
)
GOOGLE = Driver(package="gcsfs", upload={"chunksize": PART_BYTES})
AZURE = Driver(package="adlfs", upload={"overwrite": True, "max_concurrency": 1})
#: By protocol. Any other file system gets the file under a hidden name first: fsspec's generic ``put_file`` writes
#: in place.
DRIVERS = {"s3": S3, "s3a": S3, "gs": GOOGLE, "gcs": GOOGLE, "az": AZURE, "abfs": AZURE, "abfss": AZURE}

#: What S3 answers when the object is not the one that the condition names.
CHANGED_CODES = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"})

WRITTEN_MEANWHILE = "another run wrote it meanwhile, which stays. The next tick lands what is missing"
"""Why a file is refused that was to replace an older one, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was at a place when it was looked at: an upload can be told to replace that and nothing newer."""

    size: int | None
    """Bytes; None when there was nothing."""
    etag: str | None = None


NOTHING = Found(size=None)


def open_file_system(url: str) -> tuple[Any, str]:
    """Return the fsspec file system of a URL and the path of its root there.

    The instance is nobody else's: fsspec's cached ones keep the credentials, the endpoint and the listings that
    they saw first. Raises `ImportError`, naming what to install, and `ValueError` for a protocol nobody knows.
    """
    driver = DRIVERS.get(url.partition("://")[0])
    try:
        file_system, base = url_to_fs(url, skip_instance_cache=True, **(driver.options if driver else {}))
    except ImportError as error:
        raise ImportError(f"pip install '{driver.package}'" if driver else str(error)) from None
    return file_system, base.rstrip("/")


class ObjectStore:
    """Files by key. Errors are the driver's own; a bucket that is missing is an `OSError`, never a missing file."""

    def __init__(self, file_system: Any) -> None:
        self._files = file_system
        protocol = file_system.protocol
        names = [protocol] if isinstance(protocol, str) else protocol
        self._driver = next((DRIVERS[name] for name in names if name in DRIVERS), None)

    def find(self, key: str) -> Found:
        """Look at a file, past every cache."""
        # Drivers answer from a listing cache that knows nothing of what other processes wrote.
        self._files.invalidate_cache(key.rpartition("/")[0])
        try:
            # Not ``exists``: fsspec's own takes every error, an outage too, for a "no".
            info = self._asked("info", key, seconds=LOOK_SECONDS)
        except (FileNotFoundError, NotADirectoryError) as error:
            _refuse_missing_bucket(error)
            return NOTHING
        return Found(size=int(info["size"] or 0), etag=info.get("ETag") or None)

    def read(self, key: str) -> bytes | None:
        """Return a file's content, or None when there is none."""
        try:
            return cast(bytes, self._asked("cat_file", key, seconds=READ_SECONDS))
        except (FileNotFoundError, NotADirectoryError) as error:
            _refuse_missing_bucket(error)
            return None

    def remove(self, key: str) -> None:
        """Remove a file."""
        self._asked("rm_file", key, seconds=LOOK_SECONDS)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files right below a key, sorted, past every cache; none where nothing is."""
        self._files.invalidate_cache(folder)
        try:
            entries = self._asked("ls", folder, seconds=READ_SECONDS, detail=True)
        except (FileNotFoundError, NotADirectoryError) as error:
            _refuse_missing_bucket(error)
            return []
        # An object store may have an object named like the folder itself, with a slash at its end.
        files = (entry["name"] for entry in entries if entry["type"] == "file" and not entry["name"].endswith("/"))
        return sorted(name.rpartition("/")[2] for name in files)

    def upload(self, source: Path, key: str, replacing: Found | None) -> None:
        """Put a local file at ``key``, whole or not at all, and look whether all of it is there.

        With ``replacing``, a store that has conditional writes refuses when something else is there by now.
        """
        size = source.stat().st_size
        if self._driver is None:
            self._upload_hidden(source, key, size)
            return
        condition = self._condition(replacing, size)
        try:
            self._put(source, key, size, {**self._driver.upload, **condition})
        except Exception as error:
            if not condition or not self._settles(error, source, key, size, self._driver):
                raise
        self._verify(key, size)

    def _settles(self, error: Exception, source: Path, key: str, size: int, driver: Driver) -> bool:
        """Return whether the file is there in spite of the answer to a conditional write."""
        code = _s3_code(error)
        if code == "NotImplemented":  # a store without conditional writes
            self._put(source, key, size, driver.upload)
            return True
        if code not in CHANGED_CODES:
            return False
        # The driver sends again what got no answer, and then meets its own object.
        if self.read(key) == source.read_bytes():
            return True
        raise OSError(WRITTEN_MEANWHILE) from None

    def _condition(self, replacing: Found | None, size: int) -> dict[str, Any]:
        if replacing is None or self._driver is None or not self._driver.conditional:
            return {}
        whole = {"chunksize": max(size, PART_BYTES)}  # one PUT, of whatever size: s3fs drops a condition on parts
        if replacing.size is None:
            return {"IfNoneMatch": "*", **whole}
        return {"IfMatch": replacing.etag, **whole} if replacing.etag else {}

    def _upload_hidden(self, source: Path, key: str, size: int) -> None:
        folder, _, name = key.rpartition("/")
        hidden = f"{folder}/.{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        try:
            self._put(source, hidden, size, {})
            self._verify(hidden, size)
            _alone(self._files.mv, hidden, key)
        except BaseException:
            with suppress(Exception):
                _alone(self._files.rm_file, hidden)
            raise

    def _asked(self, method: str, *args: Any, seconds: float, **options: Any) -> Any:
        """Call one of the driver's methods that read, which would wait for ever for a store that drips."""
        if not isinstance(self._files, AsyncFileSystem):
            return _alone(getattr(self._files, method), *args, **options)
        call = getattr(self._files, f"_{method}")
        try:
            return _alone(sync, self._files.loop, call, *args, timeout=seconds, **options)
        except FSTimeoutError:
            raise OSError(f"the storage did not answer within {seconds:.0f} s") from None

    def _put(self, source: Path, key: str, size: int, options: Mapping[str, Any]) -> None:
        if not isinstance(self._files, AsyncFileSystem):
            _alone(self._files.put_file, str(source), key, **options)
            return
        # ``put_file`` itself waits for ever for a store that takes a connection and then reads or answers nothing.
        seconds = UPLOAD_SECONDS + size / LEAST_BYTES_PER_SECOND
        try:
            _alone(sync, self._files.loop, self._files._put_file, str(source), key, timeout=seconds, **options)
        except FSTimeoutError:
            raise OSError(f"the storage did not take {size} bytes within {seconds:.0f} s") from None

    def _verify(self, key: str, size: int) -> None:
        there = self.find(key).size
        if there != size:
            raise OSError(f"{there or 0} bytes are there after an upload of {size}")


def _alone(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a driver without the caller's context variables.

    Its connections outlive the call and keep those; in a Dagster step they hold the step, and with it, when it has
    failed, the abandoned generator that has the lease.
    """
    return Context().run(call, *args, **options)


def _s3_code(error: BaseException) -> str:
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _refuse_missing_bucket(error: OSError) -> None:
    if _s3_code(error) == "NoSuchBucket":
        raise OSError(str(error)) from None
