"""What both kinds of storage root share: what a look at a file tells, and the calls to the operating system."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

STALE_SECONDS = 3600.0
"""The age at which nobody writes a temporary file any more: a killed run left the file.

A download writes every half minute or is broken off. The lease of a run that does nothing ends after half this time,
and a run looks at its lease before it publishes.
"""
PARTIAL_SUFFIX = ".partial"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was at a place when it was looked at: `StorageRoot.publish` can replace exactly that."""

    size: int | None
    """Bytes; None when there was nothing."""
    etag: str | None = None
    version: str | None = None
    """Names the content where the store has versions; Google Cloud Storage compares this one."""


NOTHING = Found(size=None)


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
        """Give a file a second name. Raises `FileExistsError` when a file has that name already."""
        target.hardlink_to(source)

    def free_bytes(self, folder: Path) -> int | None:
        """Return the free bytes for us on a folder's file system, also of a folder still to be made.

        None when the file system does not say, as some that are no disks. No file system tells of quotas.
        """
        while not folder.exists():
            folder = folder.parent
        usage = shutil.disk_usage(folder)
        return usage.free if usage.total else None
