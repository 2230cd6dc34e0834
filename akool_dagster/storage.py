"""Where files live: one root, on local disk or behind any fsspec URL, that never shows a half file."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from akool_dagster.clock import Clock
from akool_dagster.errors import AkoolDagsterError

PART = re.compile(r"[A-Za-z0-9._:=-]+")
PARTIAL_SUFFIX = ".partial"
REMOTE_PARTIAL_PREFIX = ".akool-dagster."

#: fsspec protocols whose ``put_file`` shows an object only once all of it has arrived. Any other file system
#: gets the file under a hidden name first, because fsspec's generic ``put_file`` writes in place.
WHOLE_OBJECT_PROTOCOLS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci"})

_AUTHORITY = re.compile(r"(?:[^:@]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^:@]*)(?::[0-9]+)?")

#: What a disk, and no network, answers.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES})


class StorageError(AkoolDagsterError):
    """The storage root cannot be used. The message has the path, the cause and, where known, the way out."""


class OsFiles:
    """The calls to the operating system that writing a file makes: the seam where tests put a full disk."""

    def open(self, path: Path, mode: str) -> BinaryIO:
        """Open a file in a binary mode."""
        return cast(BinaryIO, path.open(mode))

    def fsync(self, path: Path) -> None:
        """Make a file's or a directory's content survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def replace(self, source: Path, target: Path) -> None:
        """Rename, replacing the target in one step."""
        source.replace(target)


class StorageRoot:
    """One folder, local or remote. Every ``relative`` is a POSIX path below it: ``akool/results/x.parquet``.

    Every method raises `StorageError` when the storage cannot be used or ``relative`` is not a plain path.
    Folders below the root may be symbolic links: the root is the operator's. A link in the place of a file is
    replaced, never written through.
    """

    def __init__(self, url: str, *, files: OsFiles | None = None) -> None:
        """Take an absolute local path or an fsspec URL (``s3://…``, ``memory://…``, ``file://…``).

        Nothing is read or made yet. Raises `StorageError` for a relative path, naming the absolute form, for a URL
        with credentials in it, and for one whose fsspec driver is not installed.
        """
        self.files = files or OsFiles()
        refuse_credentials(url)
        _refuse_relative_root(url)
        self._display = url
        try:
            self._remote, base = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"No driver for the storage root {self._display}: {_cause(error)}") from None
        self.is_local = isinstance(self._remote, LocalFileSystem)
        self._base = base.rstrip("/")
        if self.is_local:
            self._display = self._base or "/"

    def __repr__(self) -> str:
        return f"StorageRoot({self._display!r})"

    def uri(self, relative: str = "") -> str:
        """Return the path or URL of a file, or of the root, without credentials: for people and metadata."""
        if not relative:
            return self._display
        return f"{self._display.rstrip('/')}/{_checked(relative)}"

    def exists(self, relative: str) -> bool:
        """Return whether something is there. An unreachable storage is an error, never a "no"."""
        return self._size(relative) is not None

    def size(self, relative: str) -> int:
        """Return a file's size in bytes. Raises `StorageError` when there is none."""
        size = self._size(relative)
        if size is None:
            raise StorageError(f"There is no file at {self.uri(relative)}.")
        return size

    def open_read(self, relative: str) -> BinaryIO:
        """Open a file for reading; the caller closes it."""
        try:
            if self.is_local:
                return self.files.open(self._local(relative), "rb")
            return cast(BinaryIO, self._remote.open(self._key(relative), "rb"))
        except Exception as error:
            self._fail("read", relative, error)

    def read_bytes(self, relative: str) -> bytes:
        """Return the whole content of a file."""
        with self.open_read(relative) as file:
            try:
                return file.read()
            except Exception as error:
                self._fail("read", relative, error)

    @contextmanager
    def temporary(self, relative: str) -> Iterator[Path]:
        """Give a local path to write the future ``relative`` to; `publish` it before the block ends.

        The name is unique. For a local root it is a hidden one in the destination's own directory, which is
        made when missing, since only a rename within one directory is atomic; for a remote root it is in the
        system's temporary folder. Whatever is left when the block ends is removed. A full or unwritable
        disk met inside the block becomes a `StorageError`; any other exception passes as it is.
        """
        name = _checked(relative).rpartition("/")[2]
        if self.is_local:
            folder = self._local(relative).parent
            try:
                self._make_directory(folder)
            except OSError as error:
                self._fail("make the folder of", relative, error)
            path = folder / f".{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        else:
            path = Path(tempfile.gettempdir(), f"{REMOTE_PARTIAL_PREFIX}{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            yield path
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise StorageError(f"Cannot write to {path.parent}: {_cause(error)}") from error
            raise
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def publish(self, local_file: Path, relative: str) -> None:
        """Show a finished file at ``relative``, whole and durable or not at all, replacing what is there.

        For a local root ``local_file`` must come from `temporary` of the same ``relative`` and is moved; else
        it is uploaded and stays.
        """
        try:
            if self.is_local:
                self._publish_locally(local_file, self._local(relative))
            else:
                self._upload(local_file, self._key(relative))
        except Exception as error:
            self._fail("write", relative, error)

    def remove_stale_temporaries(self, relative_dir: str, older_than_seconds: float, clock: Clock) -> int:
        """Remove what killed processes left of `temporary` files for one folder; return how many it was.

        A remote root's temporary files are all in the system's temporary folder, whatever ``relative_dir``
        is.
        """
        folder = self._local(relative_dir) if self.is_local else Path(tempfile.gettempdir())
        prefix = "." if self.is_local else REMOTE_PARTIAL_PREFIX
        oldest_kept = clock.now_ms() / 1000 - older_than_seconds
        removed = 0
        try:
            for entry in os.scandir(folder) if folder.is_dir() else ():
                if not (entry.name.startswith(prefix) and entry.name.endswith(PARTIAL_SUFFIX)):
                    continue
                # Gone meanwhile; or, in a temporary folder that is shared, another user's.
                with suppress(FileNotFoundError, PermissionError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest_kept:
                        Path(entry.path).unlink()
                        removed += 1
        except OSError as error:
            self._fail("clean", relative_dir, error)
        return removed

    def _size(self, relative: str) -> int | None:
        try:
            if self.is_local:
                return self._local(relative).stat().st_size
            key = self._key(relative)
            # Drivers answer from a listing cache that knows nothing of what other processes wrote.
            self._remote.invalidate_cache(key.rpartition("/")[0])
            # Not ``exists``: fsspec's own takes every error, an outage too, for a "no".
            return int(self._remote.info(key)["size"] or 0)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            self._fail("look at", relative, error)

    def _local(self, relative: str) -> Path:
        return Path(self._base or "/", _checked(relative))

    def _key(self, relative: str) -> str:
        return f"{self._base}/{_checked(relative)}"

    def _make_directory(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_directory(folder.parent)
        folder.mkdir(exist_ok=True)
        self._fsync_directory(folder.parent)

    def _publish_locally(self, source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise StorageError(f"{source} is not a temporary file of {target}: write to StorageRoot.temporary().")
        self.files.fsync(source)
        self.files.replace(source, target)
        self._fsync_directory(target.parent)

    def _fsync_directory(self, folder: Path) -> None:
        try:
            self.files.fsync(folder)
        except OSError as error:
            # Some network file systems cannot sync a directory, and say so.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise

    def _upload(self, source: Path, key: str) -> None:
        protocol = self._remote.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        if names & WHOLE_OBJECT_PROTOCOLS:
            self._remote.put_file(str(source), key)
            return
        folder, _, name = key.rpartition("/")
        hidden = f"{folder}/.{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        try:
            self._remote.put_file(str(source), hidden)
            self._remote.mv(hidden, key)
        except BaseException:
            with suppress(Exception):
                self._remote.rm_file(hidden)
            raise

    def _fail(self, action: str, relative: str, error: Exception) -> NoReturn:
        if isinstance(error, StorageError):
            raise error
        message = f"Cannot {action} {self.uri(relative)}: {_cause(error)}"
        # A remote driver's own error may quote a signed URL: only its redacted text is passed on.
        raise StorageError(message) from (error if self.is_local else None)


def refuse_credentials(url: str) -> None:
    """Raise `StorageError`, without repeating it, for a storage URL that may hold a password or a signature.

    Dagster's UI shows the URL. It may name a container or user (``abfs://container@account...``) and a port.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or (scheme in ("file", "local") and rest.startswith("/")):
        return
    plain = not re.search(r"[?#]", url) and all(
        # A bucket has no port: in "s3://key:12/34@bucket" it is a password that goes on after the slash.
        _AUTHORITY.fullmatch(authority) and (":" not in authority or inner not in WHOLE_OBJECT_PROTOCOLS)
        for inner, authority in re.findall(r"([A-Za-z0-9+.\-]*)://([^/]*)", url)
    )
    if not plain:
        raise StorageError(
            f"The {scheme}:// URL of the storage root has a password, a query or a fragment in it, which Dagster's UI "
            "would show. Leave it out and give credentials in the environment: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for S3, FSSPEC_<PROTOCOL>_<OPTION> for other drivers of fsspec."
        )


def _refuse_relative_root(url: str) -> None:
    if not url.strip() or "\0" in url:
        raise StorageError("The storage root is empty. Give an absolute path or an fsspec URL such as s3://bucket/x.")
    scheme, separator, rest = url.partition("://")
    if separator and scheme not in ("file", "local"):
        return
    path = Path(rest if separator else url)
    if not path.is_absolute():
        absolute = os.path.normpath(path.expanduser().absolute())
        raise StorageError(f"The storage root {url!r} is a relative path. Write it as {absolute}")


def _checked(relative: str) -> str:
    parts = relative.split("/")
    if any(part in (".", "..") or not PART.fullmatch(part) for part in parts):
        raise StorageError(f"{relative!r} is not a path below the storage root: its parts match {PART.pattern}.")
    return relative


def _without_credentials(text: str) -> str:
    return re.sub(r"(://[^\s?#]*)[?#]\S*", r"\1", re.sub(r"://[^/\s]*@", "://", text))


def _cause(error: Any) -> str:
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _without_credentials(detail) or type(error).__name__
