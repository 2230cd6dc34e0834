"""Files of a storage root on a local disk."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from akool_dagster.base.clock import Clock
from akool_dagster.storage.errors import ChangedMeanwhileError, StorageError
from akool_dagster.storage.files import NOTHING, PARTIAL_SUFFIX, Found, OsFiles
from akool_dagster.storage.lock import locked

#: What a file system answers that has no hard links, or no more for that file.
NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


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
        """Open a file itself: what is renamed over it meanwhile does not matter to an open one."""
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
        """Return where temporary files of a folder are: in it, for only a rename within one folder is atomic."""
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
        if source.parent != target.parent:
            raise StorageError(f"{source} is not a temporary file of {target}: write to StorageRoot.temporary().")
        self._files.fsync(source)
        if replacing != NOTHING:
            self._files.replace(source, target)
        elif not self._show_as_new(source, target):
            raise ChangedMeanwhileError(f"{target} was written meanwhile.")
        self._sync_folder(target.parent)

    def create(self, relative: str, content: bytes) -> bool:
        """Write a file where none is; return False, and leave it, where one is."""
        target = self._base / relative
        self.make_folder(target.parent)
        source = target.parent / f".{target.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        try:
            with self._files.open(source, "xb") as file:
                file.write(content)
            self._files.fsync(source)
            shown = self._show_as_new(source, target)
            self._sync_folder(target.parent)  # also of another's file: its writer may not have come so far
            return shown
        finally:
            with suppress(OSError):
                source.unlink(missing_ok=True)

    def remove(self, relative: str) -> None:
        """Remove a file, durably."""
        target = self._base / relative
        target.unlink()
        self._sync_folder(target.parent)

    def lock(self, relative: str, *, seconds: float, clock: Clock) -> AbstractContextManager[None]:
        """Return the lock at a path; see `locked`."""
        path = self._base / relative
        self.make_folder(path.parent)
        return locked(path, seconds=seconds, clock=clock)

    def _show_as_new(self, source: Path, target: Path) -> bool:
        """Give a file the name in one step unless something has it; return whether it has the name now.

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
