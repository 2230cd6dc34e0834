"""What goes wrong with a storage root."""

from __future__ import annotations

import errno

from akool_dagster.errors import AkoolDagsterError

FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_ERRORS = FULL_ERRORS | {errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES}
"""What a disk, and no network, answers."""


class StorageError(AkoolDagsterError):
    """The storage root cannot be used. The message has the path, the cause and, where known, the way out."""


class StorageFullError(StorageError):
    """The disk or its quota has no room left; the message says what is free."""


class ChangedMeanwhileError(StorageError):
    """The file is not the one that was read: read the file again, merge again, publish again."""


class UnsupportedStorageError(StorageError):
    """The storage lacks what a root needs: conditional writes, or locks between processes."""


def unconditional(shown: str) -> UnsupportedStorageError:
    """Return the error of a store at a URL that refuses or ignores the condition of a write."""
    return UnsupportedStorageError(
        f"The store of {shown} has no conditional writes (If-None-Match, If-Match), without which two runs may undo "
        "each other's rows. Give a storage root on a disk, or in a store that has them."
    )
