"""Dagster assets: the tables of results, and the videos with their manifest. Each is a function of the ledger."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pandas as pd

from akool_dagster.base.clock import Clock
from akool_dagster.base.names import AccountNames
from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.io_manager import TABLE_METADATA, ParquetIOManager
from akool_dagster.ledger import AccountLedger, HeldLease, LandingKind
from akool_dagster.resources import AkoolResource, JobLedgerResource, VideoStoreResource
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import ensure_owner
from akool_dagster.tables import RESULT_TABLES, VIDEOS, TableSpec
from akool_dagster.tables.files import Summary
from akool_dagster.tables.spool import Spool
from akool_dagster.videos.landing import VideoLanding

_STARTS_LOOKED_AT = 500
"""Among so many latest launches a run looks for its own."""
_LONGEST_START_SECONDS = 3600.0


def build_jobs_asset(names: AccountNames) -> dg.AssetSpec:
    """Return the external asset that stands for the jobs at Akool; the sensor reports observations of it."""
    return dg.AssetSpec(
        dg.AssetKey(names.asset("jobs")),
        description=(
            "The image-to-video jobs that are tracked, as the ledger knows them. Not materialised: the sensor "
            f"`{names.sensor}` polls Akool and reports counts here."
        ),
        group_name=names.prefix,
        kinds={"akool"},
    )


def build_tables_asset(
    names: AccountNames, grid: PartitionGrid, tables: Sequence[str], clock: Clock
) -> dg.AssetsDefinition:
    """Return the multi-asset that lands a partition of the chosen tables from one snapshot of the ledger."""
    specs = [RESULT_TABLES[name] for name in tables]

    @dg.multi_asset(
        name=f"{names.prefix}_results_tables",
        outs={spec.name: _asset_out(names, spec) for spec in specs},
        deps=[dg.AssetKey(names.asset("jobs"))],
        can_subset=True,
        partitions_def=_partitions_of(grid),  # without a backfill policy: a run for each partition
        required_resource_keys={names.ledger, names.tables},
    )
    def land_tables(context: dg.AssetExecutionContext) -> Iterator[dg.Output[Any]]:
        selected = context.op_execution_context.selected_output_names
        with _landing(context, names, grid, LandingKind.TABLES, clock) as landing:
            if isinstance(landing.io_manager, ParquetIOManager):
                landing.own(landing.io_manager.root())
            yield from landing.outputs([spec for spec in specs if spec.name in selected])

    return land_tables


def build_videos_asset(names: AccountNames, grid: PartitionGrid, upstream: str, clock: Clock) -> dg.AssetsDefinition:
    """Return the asset that downloads a partition's due videos and lands their manifest.

    ``upstream`` is an asset's name, for lineage only: the videos are read from the ledger and never wait for a table.
    """

    @dg.multi_asset(
        name=f"{names.prefix}_{VIDEOS.name}",
        outs={VIDEOS.name: _asset_out(names, VIDEOS, "mp4")},
        deps=[dg.AssetKey(names.asset(upstream))],
        partitions_def=_partitions_of(grid),  # without a backfill policy: a run for each partition
        required_resource_keys={names.ledger, names.tables, names.akool, names.videos},
    )
    def videos(context: dg.AssetExecutionContext) -> Iterator[dg.Output[Any]]:
        store: VideoStoreResource = getattr(context.resources, names.videos)
        akool: AkoolResource = getattr(context.resources, names.akool)
        with _landing(context, names, grid, LandingKind.VIDEOS, clock) as landing:
            root = store.root()
            landing.own(root)
            report = VideoLanding(
                landing.ledger,
                new_client=akool.client,
                root=root,
                policy=store.address_policy(akool.base_url),
                clock=clock,
                log=context.log.info,
                before_effect=landing.lease.check,
            ).land(
                *grid.saving_window(landing.key, clock.now_ms()), run_seconds=store.run_seconds, limits=store.limits()
            )
            downloads = {
                "akool/downloaded": report.stored,
                "akool/downloaded_bytes": report.bytes,
                "akool/failed_downloads": report.failed,
                "akool/given_up_downloads": report.unverified + report.lost,
                "akool/deferred_downloads": report.deferred,
            }
            yield from landing.outputs([VIDEOS], downloads)

    return videos


@dataclass(frozen=True, kw_only=True)
class _Landing:
    """The landing of one partition, as long as its lease is held."""

    kind: LandingKind
    key: str
    grid: PartitionGrid
    ledger: AccountLedger
    lease: HeldLease
    io_manager: object
    clock: Clock

    def own(self, root: StorageRoot) -> None:
        """Mark the storage root at the account's first landing; raise `OwnershipError` when it is not this ledger's."""
        account, landings = self.ledger.name, self.ledger.landings
        first = not landings.root_is_marked()
        # A run that was killed while it made the mark left its temporary file there.
        root.remove_stale_temporaries(account, self.clock)
        ensure_owner(root, account, self.ledger.ledger_id, self.grid.granularity, first=first)
        if first:
            landings.note_marked_root()

    def outputs(self, specs: Sequence[TableSpec], metadata: Mapping[str, int] = {}) -> Iterator[dg.Output[Any]]:
        """Yield the tables of one snapshot, and record after each what has landed of it."""
        start, end = self.grid.window(self.key)
        landings = self.ledger.landings
        with landings.snapshot(start, end) as snapshot:
            spool = Spool(snapshot, start, specs, landings.forgotten)
        version = snapshot.tables_version if self.kind == LandingKind.TABLES else snapshot.videos_version
        with spool:
            for spec in specs:
                self.lease.check()
                value, numbers = self._output(spool, spec)
                # The IO manager writes while this generator waits here: inside the lease.
                yield dg.Output(value, output_name=spec.name, metadata={**metadata, **numbers})
                landings.record_landed(self.kind, self.key, self.lease.owner, start, spec.name, version)

    def _output(self, spool: Spool, spec: TableSpec) -> tuple[object, dict[str, int | float]]:
        table = spool.table(spec)
        if isinstance(self.io_manager, ParquetIOManager):
            return table, {}  # it merges the rows as it reads them, and counts what it has written
        summary = Summary(spec)
        rows = table.whole()
        for batch in rows.to_batches():
            summary.noted(batch)
        return rows.to_pandas(types_mapper=pd.ArrowDtype), {"akool/rows": summary.rows, **summary.totals()}


@contextmanager
def _landing(
    context: dg.AssetExecutionContext, names: AccountNames, grid: PartitionGrid, kind: LandingKind, clock: Clock
) -> Iterator[_Landing]:
    """Hold the lease of the run's partition, and show an error of ours in the UI as its sentence."""
    resource: JobLedgerResource = getattr(context.resources, names.ledger)
    key, begun = context.partition_key, clock.now_ms()
    try:
        with resource.hold(names.prefix, kind, key, context.run.run_id) as (ledger, lease):
            _note_start(context, ledger, begun)
            io_manager = getattr(context.resources, names.tables)
            yield _Landing(
                kind=kind, key=key, grid=grid, ledger=ledger, lease=lease, io_manager=io_manager, clock=clock
            )
    except AkoolDagsterError as error:
        raise dg.Failure(description=str(error)) from error


def _note_start(context: dg.AssetExecutionContext, ledger: AccountLedger, begun: int) -> None:
    """Tell the ledger how long this run took from its launch to its first line of work, where a launch is on record."""
    launches = context.instance.fetch_run_status_changes(
        dg.RunStatusChangeRecordsFilter(  # not by job: SQLite's event log cannot
            dg.DagsterEventType.RUN_STARTING, after_timestamp=begun / 1000 - _LONGEST_START_SECONDS
        ),
        limit=_STARTS_LOOKED_AT,
    )
    for launch in launches.records:
        if launch.run_id == context.run.run_id:
            ledger.landings.note_start(max(0, begun - int(launch.timestamp * 1000)))


def _partitions_of(grid: PartitionGrid) -> dg.TimeWindowPartitionsDefinition:
    """Return Dagster's partitions of a grid. The current one is among them: with end_offset=0 it would not be."""
    if grid.granularity == Granularity.HOURLY:
        return dg.HourlyPartitionsDefinition(start_date=grid.first_key, end_offset=1)
    return dg.DailyPartitionsDefinition(start_date=grid.first_key, end_offset=1)


def _asset_out(names: AccountNames, spec: TableSpec, *more_kinds: str) -> dg.AssetOut:
    columns = [
        dg.TableColumn(
            name=column.name,
            type=str(column.type),
            description=column.description + (f" Unit: {column.unit}." if column.unit else ""),
            constraints=dg.TableColumnConstraints(
                nullable=column.name not in ("_id", "partition_time"), unique=column.name == "_id"
            ),
        )
        for column in spec.columns
    ]
    return dg.AssetOut(
        key=dg.AssetKey(names.asset(spec.name)),
        description=spec.description,
        io_manager_key=names.tables,
        metadata={
            "dagster/column_schema": dg.TableSchema(columns=columns),
            "partition_expr": "partition_time",  # database IO managers replace a partition by this column
            TABLE_METADATA: spec.name,
        },
        group_name=names.prefix,
        kinds={"parquet", *more_kinds},
        is_required=False,
    )
