"""A partition as a stretch of time and as a key, and the right to change it: both of its leases."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date

from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.ledger import AccountLedger, LandingKind

Window = tuple[int, int]
"""The first millisecond of a partition and that of the next."""

GRIDS = {grid.length_ms: grid for grid in (PartitionGrid(granularity, date(1970, 1, 1)) for granularity in Granularity)}
"""The grid of partitions by the length of one, in milliseconds."""


def window_of(at: int, granularity: str | None) -> Window:
    """Return the partition that a time lies in; the day when the granularity is not known yet."""
    length = next((length for length, grid in GRIDS.items() if grid.granularity == granularity), max(GRIDS))
    return at - at % length, at - at % length + length


def partition_key(window: Window) -> str:
    """Return the key of a partition in Dagster and in the leases. Raises ValueError for a partition before 1970."""
    start, end = window
    key = GRIDS[end - start].key(start, start)
    if key is None:
        raise ValueError(f"no partition begins at {start}")
    return key


@contextmanager
def both_leases(account: AccountLedger, window: Window, purpose: str) -> Iterator[Callable[[], None]]:
    """Hold both leases of a partition while the block lasts; give a function to call before each effect.

    Raises `LeaseHeldError` when a run goes on holding one of them. The function raises `LeaseLostError`.
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
