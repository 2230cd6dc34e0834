"""Dagster assets: the tables of results, and the videos with their manifest. Each is a function of the ledger."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from akool_dagster.base.names import AccountNames
from akool_dagster.clock import Clock, SystemClock
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.io_manager import TABLE_METADATA, ParquetIOManager
from akool_dagster.landing import LandingKind, PartitionGrid
from akool_dagster.ledger import Job, JobLedger, JobState, LedgerUnavailableError, PartitionSnapshot, VideoState
from akool_dagster.ownership import FIRST_LANDING_METADATA, LEDGER_METADATA, REVISION_METADATA, ensure_owner
from akool_dagster.resources import AkoolResource, JobLedgerResource, VideoStoreResource
from akool_dagster.tables import RESULT_TABLES, VIDEOS, TableSpec, build_table, build_tables, refuse_pruned
from akool_dagster.videos.landing import VideoLanding


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
    names: AccountNames, grid: PartitionGrid, partitions_def: dg.PartitionsDefinition, tables: Sequence[str]
) -> dg.AssetsDefinition:
    """Return the multi-asset that lands a partition of the chosen tables from one snapshot of the ledger."""
    specs = [RESULT_TABLES[name] for name in tables]

    @dg.multi_asset(
        name=f"{names.prefix}_results_tables",
        outs={spec.name: _asset_out(names, spec) for spec in specs},
        deps=[dg.AssetKey(names.asset("jobs"))],
        can_subset=True,
        partitions_def=partitions_def,  # without a backfill policy: a run for each partition
        required_resource_keys={names.ledger, names.tables},
    )
    def land_tables(context: dg.AssetExecutionContext) -> Iterator[dg.Output[pd.DataFrame]]:
        resource: JobLedgerResource = getattr(context.resources, names.ledger)
        selected = context.op_execution_context.selected_output_names
        key = context.partition_key
        with (
            _explained(),
            resource.open() as ledger,
            _looked_up_again(ledger, names.prefix, LandingKind.TABLES, key),
            ledger.leases(names.prefix).hold(LandingKind.TABLES, key, context.run.run_id) as lease,
            _in_a_hurry_when_collected(ledger),
        ):
            start, end = grid.window(key)
            snapshot = ledger.snapshot(names.prefix, start, end)
            refuse_pruned(snapshot.jobs, names.prefix, key)
            wanted = [spec for spec in specs if spec.name in selected]
            landings = ledger.landings(names.prefix)
            first: dict[str, int | float | str] = {} if landings.have_begun() else {FIRST_LANDING_METADATA: 1}
            for name, table in build_tables(wanted, snapshot.jobs, start).items():
                lease.check()
                # The IO manager writes while this generator waits here: inside the lease.
                yield dg.Output(
                    table.to_pandas(types_mapper=pd.ArrowDtype),
                    output_name=name,
                    metadata=_landing_metadata(RESULT_TABLES[name], table, snapshot, snapshot.revision) | first,
                )
            # Another IO manager does not mark the storage root, and a missing mark would be taken for a missing mount.
            if first and isinstance(getattr(context.resources, names.tables), ParquetIOManager):
                landings.note_first()

    return land_tables


def build_videos_asset(
    names: AccountNames,
    grid: PartitionGrid,
    partitions_def: dg.PartitionsDefinition,
    tables: Sequence[str],
    clock: Clock | None = None,
) -> dg.AssetsDefinition:
    """Return the asset that downloads a partition's due videos and lands their manifest."""

    @dg.asset(
        key=dg.AssetKey(names.asset(VIDEOS.name)),
        description=f"{VIDEOS.description} The files lie beside it, in a folder a day.",
        # For lineage only: the videos are read from the ledger and never wait for the tables.
        deps=[dg.AssetKey(names.asset("results" if "results" in tables else "jobs"))],
        partitions_def=partitions_def,  # without a backfill policy: a run for each partition
        group_name=names.prefix,
        kinds={"parquet", "mp4"},
        metadata=_definition_metadata(VIDEOS),
        io_manager_key=names.tables,
        required_resource_keys={names.ledger, names.akool, names.videos},
    )
    def videos(context: dg.AssetExecutionContext) -> Iterator[dg.Output[pd.DataFrame]]:
        ledger_resource: JobLedgerResource = getattr(context.resources, names.ledger)
        store: VideoStoreResource = getattr(context.resources, names.videos)
        akool: AkoolResource = getattr(context.resources, names.akool)
        key, time = context.partition_key, clock or SystemClock()
        with (
            _explained(),
            ledger_resource.open() as ledger,
            _looked_up_again(ledger, names.prefix, LandingKind.VIDEOS, key),
            ledger.leases(names.prefix).hold(LandingKind.VIDEOS, key, context.run.run_id) as lease,
            _in_a_hurry_when_collected(ledger),
        ):
            root = store.root()
            landings = ledger.landings(names.prefix)
            ensure_owner(root, names.prefix, ledger.ledger_id, first=not landings.have_begun())
            landings.note_first()
            landing = VideoLanding(
                ledger,
                names.prefix,
                new_client=akool.client,
                root=root,
                policy=store.address_policy(akool.base_url),
                clock=time,
                log=context.log.info,
                before_effect=lease.check,
            )
            saving = grid.saving_window(key, time.now_ms())
            report = landing.land(*saving, run_seconds=store.run_seconds, limits=store.limits())
            start, end = grid.window(key)
            snapshot = ledger.snapshot(names.prefix, start, end)
            refuse_pruned(snapshot.jobs, names.prefix, key)
            table = build_table(VIDEOS, snapshot.jobs, start)
            lease.check()
            yield dg.Output(
                table.to_pandas(types_mapper=pd.ArrowDtype),
                metadata={
                    **_landing_metadata(VIDEOS, table, snapshot, max(snapshot.revision, snapshot.video_revision)),
                    **{f"akool/videos_{state}": number for state, number in _video_counts(snapshot.jobs).items()},
                    "akool/downloaded": report.stored,
                    "akool/downloaded_bytes": report.bytes,
                    "akool/failed_downloads": report.failed,
                    "akool/deferred_downloads": report.deferred,
                    "akool/api_calls": report.api_calls,
                },
            )

    return videos


def _asset_out(names: AccountNames, spec: TableSpec) -> dg.AssetOut:
    return dg.AssetOut(
        key=dg.AssetKey(names.asset(spec.name)),
        description=spec.description,
        io_manager_key=names.tables,
        metadata=_definition_metadata(spec),
        group_name=names.prefix,
        kinds={"parquet"},
        is_required=False,
    )


def _definition_metadata(spec: TableSpec) -> dict[str, Any]:
    return {
        TABLE_METADATA: spec.name,
        "partition_expr": "partition_time",  # database IO managers replace a partition by this column
        "dagster/column_schema": dg.TableSchema(
            columns=[
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
        ),
    }


def _landing_metadata(
    spec: TableSpec, table: pa.Table, snapshot: PartitionSnapshot, revision: int
) -> dict[str, int | float | str]:
    states = Counter(job.state for job in snapshot.jobs)
    metadata: dict[str, int | float | str] = {
        LEDGER_METADATA: snapshot.ledger_id,
        REVISION_METADATA: revision,
        "akool/rows": table.num_rows,
        "akool/completed": states[JobState.COMPLETED],
        "akool/failed": states[JobState.FAILED],
        "akool/pending": states[JobState.PENDING],
    }
    for name, column in spec.totals.items():
        metadata[name] = pc.sum(table.column(column)).as_py() or 0
    return metadata


def _video_counts(jobs: Sequence[Job]) -> dict[str, int]:
    counts = Counter(job.video_state for job in jobs if job.video_state is not None)
    return {state: counts[state] for state in VideoState}


@contextmanager
def _looked_up_again(ledger: JobLedger, account: str, kind: LandingKind, partition_key: str) -> Iterator[None]:
    """Make the next tick ask the event log about the partition, however this landing ends."""
    collected = False
    try:
        yield
    except GeneratorExit:
        collected = True
        raise
    finally:
        with suppress(LedgerUnavailableError) if collected else nullcontext():
            ledger.landings(account).forget(kind, partition_key)


@contextmanager
def _in_a_hurry_when_collected(ledger: JobLedger) -> Iterator[None]:
    """Let a landing whose run failed outside of it end without waiting.

    It is ended when it is collected as garbage, which may be in the middle of a transaction of the same thread: it
    would wait for itself. What it cannot give back then, its lease, ends within a minute.
    """
    try:
        yield
    except GeneratorExit:
        ledger.hurry()
        raise


@contextmanager
def _explained() -> Iterator[None]:
    """Show an error of ours in the UI as its sentence, instead of a stack trace with the sentence in it."""
    try:
        yield
    except AkoolDagsterError as error:
        raise dg.Failure(description=str(error)) from error
