"""`StorageRoot`: where files live, on a local disk or in object storage, without a half file ever being visible."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, TypeVar

from akool_dagster.base.clock import Clock
from akool_dagster.storage.errors import (
    DISK_ERRORS,
    FULL_ERRORS,
    ChangedMeanwhileError,
    StorageError,
    StorageFullError,
    reason,
)
from akool_dagster.storage.files import NOTHING, PARTIAL_SUFFIX, STALE_SECONDS, Found, OsFiles
from akool_dagster.storage.local import LocalFiles
from akool_dagster.storage.location import Location, checked, parse_root

if TYPE_CHECKING:
    from akool_dagster.storage.remote import RemoteFiles

    _Files: TypeAlias = LocalFiles | RemoteFiles

_T = TypeVar("_T")
_D = TypeVar("_D")


class StorageRoot:
    """One folder, local or remote. Every ``relative`` is a POSIX path below it: ``akool/results/x.parquet``.

    Every method raises `StorageError` when the storage cannot be used or ``relative`` is not a plain path.
    Folders below the root may be symbolic links: the root is the operator's. A link in the place of a file is
    replaced, never written through.

    >>> root = StorageRoot("/data/akool")  # or "s3://bucket/folder"
    >>> with root.temporary("akool/videos/2025-10-09/a.mp4") as path:
    ...     path.write_bytes(b"...")
    ...     root.publish(path, "akool/videos/2025-10-09/a.mp4")
    """

    def __init__(self, url: str, *, files: OsFiles | None = None) -> None:
        """Take an absolute local path or a URL: ``file:///…``, ``s3://bucket/…``, ``gs://bucket/…``, ``az://container/…``.

        Nothing is read or made yet. Raises `StorageError` for a relative path, naming the absolute form, for a URL
        with credentials in it, and for other schemes. Credentials and endpoint of a remote root are taken from the
        environment (``AWS_*``, ``GOOGLE_*``, ``AZURE_*``) at the first request.
        """
        self.files = files or OsFiles()
        location = parse_root(url)
        self._shown = location.shown
        self.is_local = location.is_local
        self._kept: _Files = _open(location, self.files)

    def __repr__(self) -> str:
        return f"StorageRoot({self._shown!r})"

    def uri(self, relative: str = "") -> str:
        """Return the path or URL of a file, or of the root, without credentials: for people and metadata."""
        return f"{self._shown.rstrip('/')}/{checked(relative)}" if relative else self._shown

    @property
    def temporary_place(self) -> Path:
        """The folder on whose disk `temporary` files are: the local root, or the system's temporary folder."""
        return Path(self._shown) if self.is_local else Path(tempfile.gettempdir())

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk that `temporary` files are written to; None when that is unknown."""
        with suppress(OSError):
            return self.files.free_bytes(self.temporary_place)
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
        return self._asked("look at", relative, self._kept.look, NOTHING)

    def read_bytes(self, relative: str) -> bytes | None:
        """Return the whole content of a file, or None when there is none: one request to a remote root."""
        return self._asked("read", relative, self._kept.read, None)

    @contextmanager
    def local_copy(self, relative: str) -> Iterator[tuple[BinaryIO, Found] | None]:
        """Give an open file with the content that `Found` names, or None when nothing is there.

        A local root gives the file itself. A remote root gives a temporary copy of one version of the object, made in
        parts of 8 MiB. Raises `ChangedMeanwhileError` for an object that is replaced all the time.
        """
        with ExitStack() as stack:
            yield self._asked("read", relative, lambda path: stack.enter_context(self._kept.local_copy(path)), None)

    def list_files(self, relative_dir: str) -> list[str]:
        """Return the names of the files in one folder, sorted. A folder that is not there has none."""
        return sorted(self._asked("list", relative_dir, self._kept.names, []))

    def folders(self, relative_dir: str) -> list[str]:
        """Return the names of the folders in a folder; of a remote root none, whose folders are only names."""
        return self._asked("list", relative_dir, self._kept.folders, [])

    @contextmanager
    def temporary(self, relative: str) -> Iterator[Path]:
        """Give a local path to write the future ``relative`` to; `publish` it before the block ends.

        The name is unique. For a local root it is a hidden one in the destination's own directory, which is
        made when missing, since only a rename within one directory is atomic; for a remote root it is in the
        system's temporary folder. Whatever is left when the block ends is removed. A full or unwritable
        disk met inside the block becomes a `StorageError`; any other exception passes as it is.
        """
        parent, _, name = checked(relative).rpartition("/")
        folder = self._kept.temporary_folder(parent)
        with self._explained("make the folder of", relative):
            self._kept.make_folder(folder)
        path = folder / f"{self._kept.temporary_prefix}{name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
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

        For a local root ``local_file`` must be a `temporary` file of the same folder and is moved; else it is uploaded
        and stays. ``replacing`` is what `look` or `local_copy` found. Raises `ChangedMeanwhileError` when something
        else is there by now: object storage always does, a local disk when nothing was there (`lock` does the rest).
        A remote file with ``replacing`` is in memory while it is sent, one at a time in a process; without, a few
        parts of 8 MiB are.
        """
        with self._explained("write", relative):
            self._kept.publish(local_file, checked(relative), replacing)

    def create(self, relative: str, content: bytes) -> bool:
        """Write a file where none is, durably, and return True; return False, and leave it, where one is.

        After a lost answer of object storage it may be this call's own: compare the content. Raises
        `UnsupportedStorageError` for a store that refuses conditional writes.
        """
        with self.temporary(relative) as path, self._explained("write", relative):
            with self.files.open(path, "xb") as file:
                file.write(content)
            return self._kept.create(path, relative)

    def remove(self, relative: str) -> bool:
        """Remove a file, durably; return whether there was one."""
        return self._asked("remove", relative, self._kept.remove, False)

    @contextmanager
    def lock(self, relative: str, *, seconds: float, clock: Clock) -> Iterator[None]:
        """Keep other processes and threads from the same lock while the block runs. Object storage needs none.

        ``relative`` is a hidden file beside what is written, ``akool/results/.2025-10-09.lock``: a name that ends in
        ``.parquet`` breaks readers of the folder. The file is never removed. Raises `StorageError` when another has it
        for so many seconds, and `UnsupportedStorageError` where the file system has no locks.
        """
        with ExitStack() as stack:
            with self._explained("lock", relative):
                stack.enter_context(self._kept.lock(checked(relative), seconds=seconds, clock=clock))
            yield

    def remove_stale_temporaries(self, relative_dir: str, clock: Clock) -> int:
        """Remove what killed processes left of `temporary` files for one folder; return how many it was.

        A file counts as left behind `STALE_SECONDS` after its last write. The temporary files of a remote root are all
        in the system's temporary folder, whatever ``relative_dir`` is. A file that cannot be removed, such as another
        user's, stays and is no error.
        """
        folder = self._kept.temporary_folder(checked(relative_dir))
        oldest_kept = clock.now_ms() / 1000 - STALE_SECONDS
        removed = 0
        with self._explained("clean", relative_dir), suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if not (entry.name.startswith(self._kept.temporary_prefix) and entry.name.endswith(PARTIAL_SUFFIX)):
                    continue
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < oldest_kept:
                        Path(entry.path).unlink()
                        removed += 1
        return removed

    def _asked(self, action: str, relative: str, ask: Callable[[str], _T], missing: _D) -> _T | _D:
        """Return what ``ask`` answers about a path, or ``missing`` when nothing is there."""
        with self._explained(action, relative):
            try:
                return ask(checked(relative))
            except (FileNotFoundError, NotADirectoryError):
                return missing

    @contextmanager
    def _explained(self, action: str, relative: str) -> Iterator[None]:
        try:
            yield
        except ChangedMeanwhileError as error:
            raise ChangedMeanwhileError(
                f"Cannot {action} {self.uri(relative)}: another run wrote it meanwhile, which stays. The next tick "
                "lands what is missing."
            ) from error
        except StorageError:
            raise
        except Exception as error:
            # A remote client's own error may quote a signed URL: only its reason is passed on.
            raise self._error(f"Cannot {action} {self.uri(relative)}", error) from (error if self.is_local else None)

    def _error(self, what: str, error: Exception) -> StorageError:
        if not isinstance(error, OSError) or not error.strerror:
            return StorageError(f"{what}: {reason(error)}")
        if error.errno not in FULL_ERRORS:
            return StorageError(f"{what}: {error.strerror}")
        free = self.free_bytes()
        # On a disk with room left the quota is used up, or the inodes.
        remark = "" if free is None else f" ({free / 1e6:.1f} MB are free)"
        return StorageFullError(f"{what}: {error.strerror}{remark}")


def _open(location: Location, files: OsFiles) -> _Files:
    if location.is_local:
        return LocalFiles(Path(location.shown), files)
    from akool_dagster.storage.remote import RemoteFiles  # obstore is large: not before it is needed

    return RemoteFiles(location, files)
