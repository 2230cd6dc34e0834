"""One call that gives a deployment everything for one Akool account."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
from dagster_shared.libraries import DagsterLibraryRegistry

from akool_dagster import __version__
from akool_dagster.accounts import check_account
from akool_dagster.assets import build_jobs_asset, build_tables_asset, build_videos_asset
from akool_dagster.base.names import AccountNames
from akool_dagster.clock import Clock
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.landing import Granularity, LandingKind, PartitionGrid
from akool_dagster.polling import DEFAULT_IDS_PER_REQUEST
from akool_dagster.resources import AkoolResource, JobLedgerResource, VideoStoreResource
from akool_dagster.sensors import SensorSettings, build_poll_sensor
from akool_dagster.tables import RESULT_TABLES

DagsterLibraryRegistry.register("akool-dagster", __version__, is_dagster_package=False)

FIRST_DAY = date(2025, 8, 1)
"""The month Akool published the Image to Video API: no job is older."""


def build_akool_definitions(
    prefix: str = "akool",
    *,
    akool: AkoolResource,
    ledger: JobLedgerResource,
    storage_root: str,
    tables: Sequence[str] = tuple(RESULT_TABLES),
    videos: bool = True,
    start_date: date = FIRST_DAY,
    granularity: str = Granularity.DAILY,
    minimum_interval_seconds: int = 30,
    default_sensor_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    ids_per_request: int = DEFAULT_IDS_PER_REQUEST,
    tick_seconds: float = 45.0,
    landing_interval_seconds: float = 60.0,
    run_start_seconds: float = 900.0,
    video_store: VideoStoreResource | None = None,
    io_manager: Any = None,
    clock: Clock | None = None,
) -> dg.Definitions:
    """Return assets, jobs, sensor and resources for one account, all named after the prefix.

    Args:
        prefix: The account in the ledger, the first part of every asset key, the group, the folder in the storage
            root, and the start of every job's, sensor's and resource's name. Two accounts in one deployment take two.
        akool: How to reach Akool's API.
        ledger: Where the jobs are recorded. Accounts may share a ledger.
        storage_root: Absolute path or URL of the folder that tables and videos go to; may be an ``EnvVar``.
        tables: Which of ``results``, ``credits``, ``durations`` and ``statuses`` to land.
        videos: Whether to download the videos.
        start_date: The first partition (UTC). Results of older jobs are polled and their videos saved, but they are
            in no partition.
        granularity: ``daily`` or ``hourly`` partitions. A change of granularity needs a new prefix.
        minimum_interval_seconds: Seconds between two ticks of the sensor.
        default_sensor_status: Whether the sensor runs without being switched on.
        ids_per_request: Most ids in one call. Akool publishes no maximum.
        tick_seconds: Most seconds that one tick takes; below the time-out of what stands between Dagster's daemon
            and the code location.
        landing_interval_seconds: Least seconds between two landings of one partition. Tables that take long to write
            also wait for ten times as long as that took.
        run_start_seconds: Seconds that a run may take from its launch to its first line of work (a container may have
            to be pulled). A run that was killed before is replaced only after this long.
        video_store: How videos are downloaded; a `VideoStoreResource` at ``storage_root`` by default.
        io_manager: What writes and reads the tables; a `ParquetIOManager` at ``storage_root`` by default. One of
            another kind replaces a partition without the checks against an older or foreign ledger.
        clock: The time of the sensor and the downloads, for tests; the machine's by default.

    Raises:
        ValueError: for a prefix, table, granularity, number or storage root that cannot work.
    """
    check_account(prefix)
    names = AccountNames(prefix=prefix)
    grid = PartitionGrid(
        Granularity(granularity), datetime(start_date.year, start_date.month, start_date.day, tzinfo=UTC)
    )
    chosen = _chosen_tables(tables)
    if not chosen and not videos:
        raise ValueError("Nothing to land: give at least one table, or videos=True.")
    if not isinstance(ids_per_request, int) or ids_per_request < 1 or not 0 < tick_seconds <= 55:
        raise ValueError("ids_per_request must be at least 1 and whole, and tick_seconds above 0 and at most 55.")
    for name, seconds in {
        "minimum_interval_seconds": minimum_interval_seconds,
        "landing_interval_seconds": landing_interval_seconds,
        "run_start_seconds": run_start_seconds,
    }.items():
        if not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"{name} is {seconds}: it must be a number of seconds, and not below 0.")

    tables_writer = ParquetIOManager(storage_root=storage_root) if io_manager is None else io_manager
    store = video_store or VideoStoreResource(storage_root=storage_root)
    if videos and isinstance(tables_writer, ParquetIOManager) and tables_writer.storage_root != store.storage_root:
        raise ValueError(
            "Tables and videos belong in one storage root, which `ledger.json` marks as this ledger's: give "
            "video_store and io_manager the same storage_root as build_akool_definitions."
        )

    partitions_def = partitions_for(grid)
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [build_jobs_asset(names)]
    jobs = []
    if chosen:
        assets.append(build_tables_asset(names, grid, partitions_def, chosen))
        jobs.append(_landing_job(names, LandingKind.TABLES, chosen))
    if videos:
        assets.append(build_videos_asset(names, grid, partitions_def, chosen, clock))
        jobs.append(_landing_job(names, LandingKind.VIDEOS, ["videos"]))
    sensor = build_poll_sensor(
        SensorSettings(
            names=names,
            grid=grid,
            tables=chosen,
            videos=videos,
            ids_per_request=ids_per_request,
            tick_seconds=tick_seconds,
            landing_interval_seconds=landing_interval_seconds,
            run_start_seconds=run_start_seconds,
        ),
        jobs,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_sensor_status,
        clock=clock,
    )
    resources: dict[str, Any] = {
        names.akool: akool,
        names.ledger: ledger,
        names.tables: tables_writer,
    }
    if videos:
        resources[names.videos] = store
    return dg.Definitions(assets=assets, jobs=jobs, sensors=[sensor], resources=resources)


def partitions_for(grid: PartitionGrid) -> dg.TimeWindowPartitionsDefinition:
    """Return Dagster's partitions of a grid. The current one is among them: with end_offset=0 it would not be."""
    if grid.granularity == Granularity.HOURLY:
        return dg.HourlyPartitionsDefinition(start_date=grid.first_key, end_offset=1)
    return dg.DailyPartitionsDefinition(start_date=grid.first_key, end_offset=1)


def _landing_job(names: AccountNames, kind: LandingKind, assets: Sequence[str]) -> Any:
    what = {
        LandingKind.TABLES: "Writes a partition of the result tables from the ledger. Safe to run again at any time.",
        LandingKind.VIDEOS: "Downloads a partition's due videos and writes their manifest. Safe to run again.",
    }[kind]
    return dg.define_asset_job(
        names.job(kind),
        selection=dg.AssetSelection.assets(*(dg.AssetKey(names.asset(name)) for name in assets)),
        description=what,
        executor_def=dg.in_process_executor,  # one step: a process of its own would only add its start
    )


def _chosen_tables(tables: Sequence[str]) -> list[str]:
    unknown = sorted(set(tables) - set(RESULT_TABLES))
    if unknown:
        raise ValueError(f"No such table: {', '.join(unknown)}. There are: {', '.join(RESULT_TABLES)}.")
    return [name for name in RESULT_TABLES if name in tables]
