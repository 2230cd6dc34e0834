"""What goes wrong with a storage root, and how the error of an object store is told in one sentence."""

from __future__ import annotations

import errno
import re

from akool_dagster.base.redaction import redact_text
from akool_dagster.errors import AkoolDagsterError

FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
DISK_ERRORS = FULL_ERRORS | {errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES}
"""What a disk, and no network, answers."""

_NO_CREDENTIALS = (
    "there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with "
    "pip install 'akool-dagster[s3-profile]', or run where the machine has a role"
)
_SAID = re.compile(r"<Message>(.*?)</Message>|\"message\":\s*\"(.*?)\"", re.DOTALL)
_STATUS = re.compile(r"status code: ([0-9]{3}[A-Za-z ]*)")
_MEANINGS = (
    (re.compile(r"169\.254\.169\.254|/latest/api/token|/latest/meta-data"), _NO_CREDENTIALS),
    (re.compile(r"kind: Connect\b"), "no connection to the storage's endpoint could be made"),
    (re.compile(r"kind: Timeout\b"), "the storage did not answer in time"),
    (re.compile(r"kind: (?:Interrupted|Request|Decode)\b"), "the connection to the storage broke"),
)
"""What a client's error has in it, and what it means. The first that fits is told."""


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


def reason(error: Exception) -> str:
    """Return what an error says, such as that of an object store's client, in one sentence without credentials."""
    text = str(error)
    if said := _SAID.search(text):
        cause = said[1] or said[2] or ""
    elif status := _STATUS.search(text):
        cause = f"the storage answered {status[1].strip()}"
    else:
        known = (meaning for pattern, meaning in _MEANINGS if pattern.search(text))
        cause = next(known, text.partition("\n\nDebug source")[0])
    # An answer may quote the request, whose URL is signed on Azure.
    return re.sub(r"\s+", " ", redact_text(cause)).strip()[:300] or type(error).__name__
