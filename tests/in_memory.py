"""Folders in memory: ledgers and files are made durable, which takes most of a test's time on a disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a new folder, in memory where the system has such a place."""
    with tempfile.TemporaryDirectory(prefix="akool-", dir=_IN_MEMORY) as folder:
        yield Path(folder)
