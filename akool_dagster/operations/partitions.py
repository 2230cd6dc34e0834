"""The partitions that have table files, and the right to change one: both of its leases."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.ledger import AccountLedger, LandingKind
from akool_dagster.tables.files import TableFile

Window = tuple[int, int]
"""The first millisecond of a partition and that of the next."""

GRIDS = {
    grid.length_ms: grid
    for grid in (PartitionGrid(granularity, datetime(1970, 1, 1, tzinfo=UTC)) for granularity in Granularity)
}
"""The grid of partitions by the length of one, in milliseconds."""


def by_window(files: Iterable[TableFile]) -> dict[Window, list[TableFile]]:
    """Return the files of each partition, the partitions by time."""
    found: dict[Window, list[TableFile]] = {}
    for file in sorted(files, key=lambda file: (file.start, file.end)):
        found.setdefault((file.start, file.end), []).append(file)
    return found


def granularities(files: Iterable[TableFile]) -> list[str]:
    """Return the granularities that file names show, each once, in order."""
    return sorted({GRIDS[file.end - file.start].granularity.value for file in files})


def window_of(at: int, granularity: str | None) -> Window:
    """Return the partition that a time lies in: the day, where the granularity is not written down yet."""
    length = next((length for length, grid in GRIDS.items() if grid.granularity == granularity), max(GRIDS))
    return at - at % length, at - at % length + length


def partition_key(window: Window) -> str:
    """Return the key of a partition as Dagster and the leases have it. Raises ValueError for one before 1970."""
    start, end = window
    key = GRIDS[end - start].key(start, start)
    if key is None:
        raise ValueError(f"no partition begins at {start}")
    return key


@contextmanager
def both_leases(account: AccountLedger, window: Window, purpose: str) -> Iterator[Callable[[], None]]:
    """Hold both leases of a partition while the block lasts; give what must be called before each effect.

    Raises `LeaseHeldError` when a run goes on holding one of them, and what is given `LeaseLostError`.
    """
    key, owner = partition_key(window), f"{purpose} {uuid.uuid4()}"
    with (
        account.leases.acquire(LandingKind.TABLES, key, owner) as tables,
        account.leases.acquire(LandingKind.VIDEOS, key, owner) as videos,
    ):

        def check() -> None:
            tables.check()
            videos.check()

        yield check
