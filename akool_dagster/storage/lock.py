"""A lock between processes and threads, on a local disk."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.storage.errors import StorageError, UnsupportedStorageError

PAUSE_SECONDS = 0.05
"""Between two looks at a lock that another has."""
#: What ``flock`` answers where the file system has none.
NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL})


@contextmanager
def locked(path: Path, *, seconds: float, clock: Clock) -> Iterator[None]:
    """Hold the lock of a file while the block runs. The file stays: a lock that is deleted locks nothing.

    Raises `StorageError` when another has the lock for so many seconds, `UnsupportedStorageError` where the file system
    has no locks, `OSError` when the file cannot be made.
    """
    # A marker file in place of a lock stays behind a killed process, and may be taken away from a slow one.
    lock = FileLock(path, thread_local=False, fallback_to_soft=False)
    deadline = Deadline(clock, seconds)
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            if deadline.expired():
                raise StorageError(
                    f"Another run has held {path} for {seconds:.0f} s: the next run that is asked for goes on. If the "
                    "same is said again and again, end the process that has that file open."
                ) from None
            clock.sleep(min(PAUSE_SECONDS, deadline.remaining()))
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise UnsupportedStorageError(
                    f"The file system of {path.parent} has no locks between processes (flock: {error.strerror}). Give "
                    "a storage root on a file system that has them, or in object storage."
                ) from None
            raise
    try:
        yield
    finally:
        lock.release()
