"""Landing without a Dagster run: what the assets do with a ledger, for tests of what becomes of the files."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow.parquet as pq

from akool_dagster import TABLES, JobLedger, ParquetIOManager
from akool_dagster.io_manager import TABLE_METADATA
from akool_dagster.landing import Granularity, PartitionGrid
from akool_dagster.ownership import FIRST_LANDING_METADATA, LEDGER_METADATA, REVISION_METADATA
from akool_dagster.tables import VIDEOS, build_tables, refuse_pruned

Rows = dict[str, list[dict[str, Any]]]


class _PartitionContext(dg.OutputContext):
    """What an IO manager is told of a partition; `build_output_context` takes half a second to say the same."""

    @property
    def has_asset_partitions(self) -> bool:
        return True

    @property
    def asset_partition_key(self) -> str:
        return self.partition_key


def grid_of(granularity: Granularity = Granularity.DAILY) -> PartitionGrid:
    return PartitionGrid(granularity, datetime(2020, 1, 1, tzinfo=UTC))


def land(
    ledger: JobLedger,
    root: Path,
    account: str = "akool",
    *,
    tables: Collection[str] = tuple(TABLES),
    granularity: Granularity = Granularity.DAILY,
) -> None:
    """Land every partition that the ledger has jobs of."""
    grid = grid_of(granularity)
    keys = {grid.key(job.partition_at, 2**42) for job in ledger.iter_jobs(account)} - {None}
    for key in sorted(key for key in keys if key is not None):
        land_partition(ledger, root, account, key, tables=tables, granularity=granularity)


def land_partition(
    ledger: JobLedger,
    root: Path,
    account: str,
    key: str,
    *,
    tables: Collection[str] = tuple(TABLES),
    granularity: Granularity = Granularity.DAILY,
) -> None:
    start, end = grid_of(granularity).window(key)
    snapshot = ledger.snapshot(account, start, end)
    refuse_pruned(snapshot.jobs, account, key)
    landings = ledger.landings(account)
    first: dict[str, Any] = {} if landings.have_begun() else {FIRST_LANDING_METADATA: 1}
    for name, table in build_tables([TABLES[name] for name in sorted(tables)], snapshot.jobs, start).items():
        revision = max(snapshot.revision, snapshot.video_revision) if name == VIDEOS.name else snapshot.revision
        context = _PartitionContext(
            asset_key=dg.AssetKey([account, name]),
            partition_key=key,
            definition_metadata={TABLE_METADATA: name},
            output_metadata={LEDGER_METADATA: snapshot.ledger_id, REVISION_METADATA: revision, **first},
        )
        ParquetIOManager(storage_root=str(root)).handle_output(context, table.to_pandas(types_mapper=pd.ArrowDtype))
    landings.note_first()


def rows_of(root: Path, account: str = "akool") -> Rows:
    """Return every row of every table, by id."""
    rows: Rows = {}
    for name in TABLES:
        files = sorted((root / account / name).glob("*.parquet"))
        rows[name] = [row for file in files for row in pq.read_table(file).to_pylist()]
    return rows


def revisions_of(root: Path, account: str = "akool") -> dict[str, int]:
    """Return the revision of every file."""
    return {
        f"{name}/{file.name}": int(pq.read_schema(file).metadata[REVISION_METADATA.encode()])
        for name in TABLES
        for file in (root / account / name).glob("*.parquet")
    }
