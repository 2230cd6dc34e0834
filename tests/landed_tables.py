"""Landing without a Dagster run: what the assets do with a ledger, for tests of what becomes of the files."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.ledger import AccountLedger
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import ensure_owner
from akool_dagster.tables import TABLES
from akool_dagster.tables.files import LandedTable, land
from akool_dagster.tables.spool import Spool

Rows = dict[str, list[dict[str, Any]]]
"""The rows of each table."""


def grid_of(granularity: Granularity = Granularity.DAILY) -> PartitionGrid:
    return PartitionGrid(granularity, datetime(2020, 1, 1, tzinfo=UTC))


def land_all(ledger: AccountLedger, root: Path, **options: Any) -> None:
    """Land every partition that the ledger has jobs of."""
    grid = grid_of(options.get("granularity", Granularity.DAILY))
    keys = {grid.key(job.partition_at, 2**42) for job in ledger.jobs()} - {None}
    for key in sorted(key for key in keys if key is not None):
        land_partition(ledger, root, key, **options)


def land_partition(
    ledger: AccountLedger,
    root: Path,
    key: str,
    *,
    tables: Collection[str] = tuple(TABLES),
    granularity: Granularity = Granularity.DAILY,
    clock: Clock | None = None,
) -> dict[str, LandedTable]:
    """Land one partition of some tables, and mark the root when it is the ledger's first landing."""
    start, end = grid_of(granularity).window(key)
    storage, landings, specs = StorageRoot(str(root)), ledger.landings, [TABLES[name] for name in sorted(tables)]
    ensure_owner(storage, ledger.name, ledger.ledger_id, granularity, first=not landings.root_is_marked())
    landings.note_marked_root()
    with landings.snapshot(start, end) as snapshot:
        spool = Spool(snapshot, start, specs, landings.forgotten)
    with spool:
        return {spec.name: _landed(storage, ledger, key, spool, spec.name, clock or SystemClock()) for spec in specs}


def _landed(
    storage: StorageRoot, ledger: AccountLedger, key: str, spool: Spool, name: str, clock: Clock
) -> LandedTable:
    table = spool.table(TABLES[name])
    relative = f"{ledger.name}/{name}/{key.replace(':', '')}.parquet"
    return land(storage, relative, table.spec, table, table.forgotten, clock)


def rows_of(root: Path, account: str = "akool") -> Rows:
    """Return every row of every table, by id."""
    rows: Rows = {}
    for name in TABLES:
        files = sorted((root / account / name).glob("*.parquet"))
        rows[name] = [row for file in files for row in pq.read_table(file).to_pylist()]
    return rows


def table_in(ledger: AccountLedger, name: str, key: str) -> pa.Table:
    """Return what the ledger alone has of one partition of a table."""
    start, end = grid_of().window(key)
    with ledger.landings.snapshot(start, end) as snapshot:
        spool = Spool(snapshot, start, [TABLES[name]], frozenset)
    with spool:
        return spool.table(TABLES[name]).whole()
