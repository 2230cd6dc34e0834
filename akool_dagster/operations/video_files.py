"""Which stored videos have no file in the storage root any more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from akool_dagster.ledger import AccountLedger
from akool_dagster.storage import StorageRoot


def recorded_file(record: str) -> tuple[str, int | None]:
    """Return a video's path and its size in bytes, from what the ledger keeps of the file."""
    kept = json.loads(record)
    path, size = kept.get("path"), kept.get("bytes")
    return path if isinstance(path, str) else "", size if isinstance(size, int) else None


def is_there(root: StorageRoot, path: str, size: int | None) -> bool:
    """Return whether a file is at a path, at its size. Raises `StorageError` when the root cannot be reached."""
    return bool(path) and root.exists(path) and size in (None, root.size(path))


def reopen_missing(account: AccountLedger, root: StorageRoot, job_ids: Iterable[str]) -> int:
    """Make the stored videos of these jobs pending whose files are gone; return how many it was.

    Raises `StorageError` when the root cannot be reached.
    """
    records: Mapping[str, str] = account.videos.records(set(job_ids))
    gone = [job_id for job_id, record in records.items() if not is_there(root, *recorded_file(record))]
    return account.videos.reopen(gone)
