"""`build_akool_definitions`: one call gives a deployment everything for one Akool account."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import dagster as dg
from dagster_shared.libraries import DagsterLibraryRegistry

from akool_dagster import __version__
from akool_dagster.assets import build_jobs_asset, build_tables_asset, build_videos_asset
from akool_dagster.base.accounts import DEFAULT_ACCOUNT, check_account
from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.base.names import AccountNames
from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.ledger import LandingKind
from akool_dagster.polling.poll_pass import DEFAULT_CONCURRENT_REQUESTS, DEFAULT_IDS_PER_REQUEST
from akool_dagster.resources import AkoolResource, JobLedgerResource, VideoStoreResource
from akool_dagster.sensors import SensorSettings, build_poll_sensor
from akool_dagster.tables import RESULT_TABLES

DagsterLibraryRegistry.register("akool-dagster", __version__, is_dagster_package=False)

FIRST_DAY = date(2025, 8, 1)
"""The month Akool published the Image to Video API: no job is older."""
MAX_RUNTIME_SECONDS = 3600
"""A landing of tables takes no longer, and one of videos no longer after its last download."""

_JOB_DESCRIPTIONS = {
    LandingKind.TABLES: "Writes a partition of the result tables from the ledger. Safe to run again at any time.",
    LandingKind.VIDEOS: "Downloads a partition's due videos and writes their manifest. Safe to run again.",
}


def build_akool_definitions(
    prefix: str = DEFAULT_ACCOUNT,
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
    concurrent_requests: int = DEFAULT_CONCURRENT_REQUESTS,
    requests_per_second: float | None = None,
    tick_seconds: float = 45.0,
    landing_interval_seconds: float = 60.0,
    run_start_seconds: float | None = None,
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
        storage_root: Absolute path, or s3://, gs:// or az:// URL, of the folder that tables and videos go to; may be an
            ``EnvVar``.
        tables: Which of ``results``, ``credits``, ``durations`` and ``statuses`` to land.
        videos: Whether to download the videos.
        start_date: The first partition (UTC). Results of older jobs are polled and their videos saved, but they are
            in no partition.
        granularity: ``daily`` or ``hourly`` partitions. A change of granularity needs a new prefix.
        minimum_interval_seconds: Seconds between two ticks of the sensor.
        default_sensor_status: Whether the sensor runs without being switched on.
        ids_per_request: Most ids in one call. Akool publishes no maximum.
        concurrent_requests: Most calls to Akool at the same time.
        requests_per_second: Most calls to Akool that a tick starts in a second; no limit by default.
        tick_seconds: Most seconds that one tick takes; below the time-out of what stands between Dagster's daemon
            and the code location.
        landing_interval_seconds: Least seconds between two landings of one partition. Tables that take long to write
            also wait for ten times as long as their last successful run took, at most an hour.
        run_start_seconds: Seconds that a launched run may take until it begins to land; then another run is asked
            for. By default twice as long as the slowest run of the day took, and at least 60. Two runs of
            one partition are harmless.
        video_store: How videos are downloaded; a `VideoStoreResource` at ``storage_root`` by default.
        io_manager: What writes and reads the tables; a `ParquetIOManager` at ``storage_root`` by default, which
            merges a landing with the rows that are there. One of another kind replaces a partition by what the ledger
            holds: an older or new ledger takes rows back, and a pruned partition comes out empty when it lands again.
            Pruning needs a `ParquetIOManager`.
        clock: The time of the sensor and the downloads, for tests; the machine's by default.

    Raises:
        ValueError: for a prefix, table, granularity, number or storage root that cannot work.
    """
    check_account(prefix)
    names = AccountNames(prefix=prefix)
    grid = PartitionGrid(Granularity(granularity), start_date)
    clock = clock or SystemClock()
    tables_writer = ParquetIOManager(storage_root=storage_root) if io_manager is None else io_manager
    store = video_store or VideoStoreResource(storage_root=storage_root)
    if videos and isinstance(tables_writer, ParquetIOManager) and tables_writer.storage_root != store.storage_root:
        raise ValueError(
            "Tables and videos belong in one storage root, which `ledger.json` marks as this ledger's: give "
            "video_store and io_manager the same storage_root as build_akool_definitions."
        )
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = [build_jobs_asset(names)]
    landed: dict[LandingKind, Sequence[str]] = {}
    resources: dict[str, Any] = {names.akool: akool, names.ledger: ledger, names.tables: tables_writer}
    if chosen := _chosen_tables(tables):
        assets.append(build_tables_asset(names, grid, chosen, clock))
        landed[LandingKind.TABLES] = chosen
    if videos:
        assets.append(build_videos_asset(names, grid, "results" if "results" in chosen else "jobs", clock))
        landed[LandingKind.VIDEOS] = ["videos"]
        resources[names.videos] = store
    if not landed:
        raise ValueError("Nothing to land: give at least one table, or videos=True.")
    settings = SensorSettings(
        names=names,
        grid=grid,
        assets=landed,
        lands_parquet=isinstance(tables_writer, ParquetIOManager),
        max_runtime_seconds={
            LandingKind.TABLES: MAX_RUNTIME_SECONDS,
            LandingKind.VIDEOS: MAX_RUNTIME_SECONDS + int(store.run_seconds + store.seconds_per_file),
        },
        minimum_interval_seconds=minimum_interval_seconds,
        ids_per_request=ids_per_request,
        concurrent_requests=concurrent_requests,
        requests_per_second=requests_per_second,
        tick_seconds=tick_seconds,
        landing_interval_seconds=landing_interval_seconds,
        run_start_seconds=run_start_seconds,
    )
    jobs = [
        dg.define_asset_job(
            names.job(kind),
            selection=dg.AssetSelection.assets(*(dg.AssetKey(names.asset(name)) for name in written)),
            description=_JOB_DESCRIPTIONS[kind],
            executor_def=dg.in_process_executor,  # one step: a process of its own would only add its start
        )
        for kind, written in landed.items()
    ]
    sensor = build_poll_sensor(settings, jobs, default_sensor_status, clock)
    return dg.Definitions(assets=assets, jobs=jobs, sensors=[sensor], resources=resources)


def _chosen_tables(tables: Sequence[str]) -> list[str]:
    unknown = sorted(set(tables) - set(RESULT_TABLES))
    if unknown:
        raise ValueError(f"No such table: {', '.join(unknown)}. There are: {', '.join(RESULT_TABLES)}.")
    return [name for name in RESULT_TABLES if name in tables]
