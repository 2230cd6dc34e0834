"""Files of a storage root on a local disk: durable renames, and locks between processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.storage.errors import ChangedMeanwhileError, StorageError, UnsupportedStorageError
from akool_dagster.storage.files import NOTHING, Found, OsFiles

LOCK_POLL_SECONDS = 0.05
"""The pause between two tries to take a lock."""
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})
"""The answers of ``flock`` on a file system without locks."""
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
"""The answers of ``link`` on a file system without hard links, or with no more of them for that file."""


class LocalFiles:
    """Files by path below a folder. Errors are `OSError`; nothing at a path is `FileNotFoundError`."""

    temporary_prefix = "."

    def __init__(self, base: Path, files: OsFiles) -> None:
        self._base = base
        self._files = files

    def look(self, relative: str) -> Found:
        """Return what is there."""
        return Found(size=(self._base / relative).stat().st_size)

    def read(self, relative: str) -> bytes:
        """Return a file's content."""
        with self._files.open(self._base / relative, "rb") as file:
            return file.read()

    @contextmanager
    def local_copy(self, relative: str) -> Iterator[tuple[BinaryIO, Found]]:
        """Open the file itself. A later rename over its name does not change an open file."""
        with self._files.open(self._base / relative, "rb") as file:
            yield file, Found(size=os.fstat(file.fileno()).st_size)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder."""
        with os.scandir(self._base / folder) as entries:
            return [entry.name for entry in entries if entry.is_file()]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        with os.scandir(self._base / folder) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def temporary_folder(self, folder: str) -> Path:
        """Return the folder itself: only a rename within one folder is atomic."""
        return self._base / folder

    def make_folder(self, folder: Path) -> None:
        """Make a folder, durably, and those above it."""
        if folder.is_dir():
            return
        self.make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        self._sync_folder(folder.parent)

    def publish(self, source: Path, relative: str, replacing: Found | None) -> None:
        """Rename a file of the same folder. Raises `ChangedMeanwhileError` when NOTHING has become something."""
        target = self._base / relative
        if replacing == NOTHING:
            if not self.create(source, relative):
                raise ChangedMeanwhileError(f"{target} was written meanwhile.")
            return
        self._files.fsync(source)
        self._files.replace(source, target)
        self._sync_folder(target.parent)

    def create(self, source: Path, relative: str) -> bool:
        """Give a file of the same folder its name, unless a file has that name; return whether it has the name now."""
        target = self._base / relative
        self._files.fsync(source)
        created = self._link(source, target)
        self._sync_folder(target.parent)  # also for another's file: its writer may not have come so far
        return created

    def remove(self, relative: str) -> bool:
        """Remove a file, durably."""
        target = self._base / relative
        target.unlink()
        self._sync_folder(target.parent)
        return True

    @contextmanager
    def lock(self, relative: str, *, seconds: float, clock: Clock) -> Iterator[None]:
        """Hold the lock of a file while the block runs. The file stays: a lock that is deleted locks nothing.

        Raises `StorageError` when another process or thread has the lock for so many seconds,
        `UnsupportedStorageError` where the file system has no locks, `OSError` when the file cannot be made.
        """
        path = self._base / relative
        self.make_folder(path.parent)
        # The soft fallback is a marker file: it stays behind a killed process, and may be taken away from a slow one.
        lock = FileLock(path, thread_local=False, fallback_to_soft=False)
        deadline = Deadline(clock, seconds)
        while not _acquired(lock, path):
            if deadline.expired():
                raise StorageError(
                    f"Another run has held {path} for {seconds:.0f} s: the next run that is asked for goes on. If the "
                    "same is said again and again, end the process that has that file open."
                )
            clock.sleep(min(LOCK_POLL_SECONDS, deadline.remaining()))
        try:
            yield
        finally:
            lock.release()

    def _link(self, source: Path, target: Path) -> bool:
        """Give the file a name in one step unless a file has it; return whether ``source`` has the name now.

        A file system without hard links has no such step: there the last of two at the same moment stays.
        """
        try:
            self._files.link(source, target)
        except FileExistsError:
            # NFS says so of a link that it made itself, when the answer was lost: link(2), "Bugs".
            if target.exists():
                return target.samefile(source)
            self._files.replace(source, target)  # a broken symbolic link is nothing
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            if target.exists():
                return False
            self._files.replace(source, target)
        return True  # whoever made the temporary file removes its first name

    def _sync_folder(self, folder: Path) -> None:
        try:
            self._files.fsync(folder)
        except OSError as error:
            # Some network file systems cannot sync a directory, and say so.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise


def _acquired(lock: FileLock, path: Path) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise UnsupportedStorageError(
            f"The file system of {path.parent} has no locks between processes (flock: {error.strerror}). Give a "
            "storage root on a file system that has them, or in object storage."
        ) from None
    return True
