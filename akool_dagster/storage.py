"""Where files live: one root, on local disk or behind any fsspec URL, that never shows a half file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from fsspec.implementations.local import LocalFileSystem

from akool_dagster.clock import Clock
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.object_storage import (
    DRIVERS,
    NOTHING,
    PARTIAL_SUFFIX,
    WRITTEN_MEANWHILE,
    Found,
    ObjectStore,
    open_file_system,
)

PART = re.compile(r"[A-Za-z0-9._:=-]+")
REMOTE_PARTIAL_PREFIX = ".akool-dagster."

_AUTHORITY = re.compile(r"(?:[^:@]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^:@]*)(?::[0-9]+)?")
BUCKET_PROTOCOLS = frozenset({*DRIVERS, "adl", "oci", "oss"})
"""fsspec protocols whose URLs begin with a bucket or container, which has no port."""

#: What a disk, and no network, answers.
DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES})
FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What a file system answers that has no hard links, or no more for that file.
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class StorageError(AkoolDagsterError):
    """The storage root cannot be used. The message has the path, the cause and, where known, the way out."""


class StorageFullError(StorageError):
    """The disk or its quota has no room left; the message says what is free."""


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

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises `FileExistsError` when something has it already."""
        target.hardlink_to(source)

    def free_bytes(self, folder: Path) -> int | None:
        """Return what is free for us on a folder's file system, also of a folder still to be made.

        None when the file system does not say, as some that are no disks. No file system tells of quotas.
        """
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        return usage.free if usage.total else None


class StorageRoot:
    """One folder, local or remote. Every ``relative`` is a POSIX path below it: ``akool/results/x.parquet``.

    Every method raises `StorageError` when the storage cannot be used or ``relative`` is not a plain path.
    Folders below the root may be symbolic links: the root is the operator's. A link in the place of a file is
    replaced, never written through.
    """

    def __init__(self, url: str, *, files: OsFiles | None = None) -> None:
        """Take an absolute local path or an fsspec URL (``s3://…``, ``memory://…``, ``file://…``).

        Nothing is read or made yet. Raises `StorageError` for a relative path, naming the absolute form, for a URL
        with credentials in it, and for one whose fsspec driver is not installed, naming the package. Credentials and
        endpoint of a remote root are the driver's business, which takes them from the environment.
        """
        self.files = files or OsFiles()
        refuse_credentials(url)
        _refuse_relative_root(url)
        self._display = url
        try:
            file_system, self._base = open_file_system(url)
        except (ImportError, ValueError) as error:
            raise StorageError(f"No driver for the storage root {self._display}: {_cause(error)}") from None
        self._remote = ObjectStore(file_system)
        self.is_local = isinstance(file_system, LocalFileSystem)
        if self.is_local:
            self._display = self._base or "/"

    def __repr__(self) -> str:
        return f"StorageRoot({self._display!r})"

    def uri(self, relative: str = "") -> str:
        """Return the path or URL of a file, or of the root, without credentials: for people and metadata."""
        if not relative:
            return self._display
        return f"{self._display.rstrip('/')}/{_checked(relative)}"

    @property
    def temporary_place(self) -> Path:
        """The folder on whose disk `temporary` files are: the local root, or the system's temporary folder."""
        return Path(self._base or "/") if self.is_local else Path(tempfile.gettempdir())

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk that `temporary` files are written to; None when that is unknown."""
        try:
            return self.files.free_bytes(self.temporary_place)
        except OSError:
            return None

    def exists(self, relative: str) -> bool:
        """Return whether something is there. An unreachable storage is an error, never a "no"."""
        return self.look(relative) != NOTHING

    def size(self, relative: str) -> int:
        """Return a file's size in bytes. Raises `StorageError` when there is none."""
        size = self.look(relative).size
        if size is None:
            raise StorageError(f"There is no file at {self.uri(relative)}.")
        return size

    def look(self, relative: str) -> Found:
        """Return what is there now, for `publish` to replace that and nothing newer."""
        try:
            if not self.is_local:
                return self._remote.find(self._key(relative))
            return Found(size=self._local(relative).stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            return NOTHING
        except Exception as error:
            self._fail("look at", relative, error)

    def read_if_there(self, relative: str) -> bytes | None:
        """Return the whole content of a file, or None when there is none: one request to a remote root."""
        try:
            if not self.is_local:
                return self._remote.read(self._key(relative))
            with self.files.open(self._local(relative), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            self._fail("read", relative, error)

    def read_bytes(self, relative: str) -> bytes:
        """Return the whole content of a file. Raises `StorageError` when there is none."""
        content = self.read_if_there(relative)
        if content is None:
            raise StorageError(f"There is no file at {self.uri(relative)}.")
        return content

    def list_files(self, relative_dir: str) -> list[str]:
        """Return the names of the files in one folder, sorted. A folder that is not there has none."""
        try:
            if self.is_local:
                with os.scandir(self._local(relative_dir)) as entries:
                    return sorted(entry.name for entry in entries if entry.is_file())
            return self._remote.names(self._key(relative_dir))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except Exception as error:
            self._fail("list", relative_dir, error)

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
                raise self._error(f"Cannot write to {path.parent}", error) from error
            raise
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def publish(self, local_file: Path, relative: str, *, replacing: Found | None = None) -> None:
        """Show a finished file at ``relative``, whole and durable or not at all, replacing what is there.

        For a local root ``local_file`` must come from `temporary` of the same ``relative`` and is moved; else
        it is uploaded and stays. ``replacing`` is what a `look` found: the file is refused when something else is
        there by now, as after a write that took longer than its lease, where the storage can tell in the same step:
        S3 always, a local disk with hard links when nothing was there.
        """
        try:
            if self.is_local:
                self._publish_locally(local_file, self._local(relative), replacing)
            else:
                self._remote.upload(local_file, self._key(relative), replacing)
        except Exception as error:
            self._fail("write", relative, error)

    def remove(self, relative: str) -> bool:
        """Remove a file; return whether there was one."""
        if not self.exists(relative):
            return False
        try:
            if self.is_local:
                self._local(relative).unlink(missing_ok=True)
            else:
                self._remote.remove(self._key(relative))
        except Exception as error:
            self._fail("remove", relative, error)
        return True

    def folders(self, relative_dir: str) -> list[str]:
        """Return the names of the folders in a folder; of a remote root none, whose folders are only names."""
        if not self.is_local:
            return []
        folder = self._local(relative_dir)
        try:
            with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            self._fail("look into", relative_dir, error)

    def remove_stale_temporaries(self, relative_dir: str, older_than_seconds: float, clock: Clock) -> int:
        """Remove what killed processes left of `temporary` files for one folder; return how many it was.

        A remote root's temporary files are all in the system's temporary folder, whatever ``relative_dir``
        is. A file that cannot be removed, as one of another user there, stays and is no error.
        """
        folder = self._local(relative_dir) if self.is_local else self.temporary_place
        prefix = "." if self.is_local else REMOTE_PARTIAL_PREFIX
        oldest_kept = clock.now_ms() / 1000 - older_than_seconds
        removed = 0
        try:
            with os.scandir(folder) if folder.is_dir() else nullcontext(()) as entries:
                for entry in entries:
                    if not (entry.name.startswith(prefix) and entry.name.endswith(PARTIAL_SUFFIX)):
                        continue
                    with suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_mtime < oldest_kept:
                            Path(entry.path).unlink()
                            removed += 1
        except OSError as error:
            self._fail("clean", relative_dir, error)
        return removed

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

    def _publish_locally(self, source: Path, target: Path, replacing: Found | None) -> None:
        if source.parent != target.parent:
            raise StorageError(f"{source} is not a temporary file of {target}: write to StorageRoot.temporary().")
        self.files.fsync(source)
        if replacing != NOTHING or not self._shown_as_new(source, target):
            self.files.replace(source, target)
        self._fsync_directory(target.parent)

    def _shown_as_new(self, source: Path, target: Path) -> bool:
        """Give the file the name, in one step, unless something has it; return False where that is impossible."""
        try:
            self.files.link(source, target)
        except FileExistsError:
            if target.is_symlink() and not target.exists():
                return False  # a broken link is nothing
            # NFS says so of a link that it made itself, when the answer was lost: link(2), "Bugs".
            if not target.samefile(source):
                raise OSError(WRITTEN_MEANWHILE) from None
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            return False
        return True  # whoever made the temporary file removes its first name

    def _fsync_directory(self, folder: Path) -> None:
        try:
            self.files.fsync(folder)
        except OSError as error:
            # Some network file systems cannot sync a directory, and say so.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise

    def _fail(self, action: str, relative: str, error: Exception) -> NoReturn:
        if isinstance(error, StorageError):
            raise error
        # A remote driver's own error may quote a signed URL: only its redacted text is passed on.
        raise self._error(f"Cannot {action} {self.uri(relative)}", error) from (error if self.is_local else None)

    def _error(self, what: str, error: Exception) -> StorageError:
        if not (isinstance(error, OSError) and error.errno in FULL_ERRORS):
            return StorageError(f"{what}: {_cause(error)}")
        free = self.free_bytes()
        # Of a disk with room left it is the quota that is used up, or its inodes.
        remark = "" if free is None else f" ({free / 1e6:.1f} MB are free)"
        return StorageFullError(f"{what}: {_cause(error)}{remark}")


def refuse_credentials(url: str) -> None:
    """Raise `StorageError`, without repeating it, for a storage URL that may hold a password or a signature.

    Dagster's UI shows the URL. It may name a container or user (``abfs://container@account...``) and a port.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or (scheme in ("file", "local") and rest.startswith("/")):
        return
    plain = not re.search(r"[?#]", url) and all(
        # A bucket has no port: in "s3://key:12/34@bucket" it is a password that goes on after the slash.
        _AUTHORITY.fullmatch(authority) and (":" not in authority or inner not in BUCKET_PROTOCOLS)
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
    # Of "/data/a::b" fsspec would take "/data/a". In brackets it is an IPv6 address.
    if "::" in re.sub(r"\[[0-9A-Fa-f:.]+\]", "", url):
        raise StorageError(
            "The storage root has '::' in it, which chains file systems in fsspec: that is not supported. Give one "
            "absolute path, or one URL such as s3://bucket/x."
        )
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


def _cause(error: Exception) -> str:
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _without_credentials(detail) or type(error).__name__
