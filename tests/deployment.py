"""A whole deployment for tests: emulator, ledger, storage root and a Dagster instance, ticked by hand."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from akool_dagster import AkoolResource, JobLedger, JobLedgerResource, TrackRequest, build_akool_definitions
from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from akool_dagster.ledger import AccountLedger

API_KEY = "emulator-key"
QUIET: dict[str, Any] = {"telemetry": {"enabled": False}}


def quiet_instance(folder: Path, **settings: Any) -> dg.DagsterInstance:
    """Return an instance in a folder that reports to nobody. ``settings``: more of its ``dagster.yaml``.

    The event log is one database: by default Dagster makes a database for each run, which takes seconds.
    """
    folder.mkdir(exist_ok=True)
    event_log = {
        "module": "dagster._core.storage.event_log",
        "class": "ConsolidatedSqliteEventLogStorage",
        "config": {"base_dir": str(folder / "history")},
    }
    own = settings or {"event_log_storage": event_log}
    return dg.DagsterInstance.local_temp(str(folder), overrides=QUIET | own)


def emulated(job_id: str, **fields: Any) -> EmulatedJob:
    """Return a job that has ended by the first poll."""
    return EmulatedJob(job_id=job_id, **({"queue_polls": 0, "processing_polls": 0} | fields))


def object_id(second: int, serial: int = 0) -> str:
    """Return an id that Akool could have given at this second of the Unix epoch."""
    return f"{second:08x}{serial:016x}"


@dataclass(frozen=True)
class Tick:
    """What one evaluation of the sensor came to."""

    requests: list[dg.RunRequest]
    message: str


@dataclass
class Deployment:
    """One account's definitions over real parts in one folder."""

    folder: Path
    emulator: AkoolEmulator
    instance: dg.DagsterInstance
    prefix: str = "akool"
    api_key: str | None = API_KEY
    options: dict[str, Any] = field(default_factory=dict)
    cursor: str | None = None
    ledger_url: str = ""

    def __post_init__(self) -> None:
        self.ledger_url = self.ledger_url or f"sqlite:///{self.folder}/ledger.sqlite"
        self.root = self.folder / "storage"
        self.rebuild()

    def rebuild(self, **changed: Any) -> None:
        """Build the definitions anew, as a restarted code location does."""
        self.options |= changed
        usual: dict[str, Any] = {
            "akool": AkoolResource(api_key=self.api_key, base_url=self.emulator.base_url),
            "ledger": JobLedgerResource(url=self.ledger_url),
            "storage_root": str(self.root),
            "landing_interval_seconds": 0,
        }
        self.defs = build_akool_definitions(self.prefix, **usual | self.options)

    def add(self, *job_ids: str, **fields: Any) -> None:
        """Track jobs that have ended at Akool by the first poll."""
        for job_id in job_ids:
            self.emulator.add_job(emulated(job_id, **fields))
        self.track(*job_ids)

    def track(self, *job_ids: str, **labels: str) -> None:
        with JobLedger.create(self.ledger_url) as ledger:
            ledger.account(self.prefix).track([TrackRequest(job_id=job_id, labels=labels) for job_id in job_ids])

    @contextmanager
    def ledger(self) -> Iterator[JobLedger]:
        with JobLedger.open(self.ledger_url) as ledger:
            yield ledger

    @contextmanager
    def account(self) -> Iterator[AccountLedger]:
        """Give the account's part of the ledger."""
        with self.ledger() as ledger:
            yield ledger.account(self.prefix)

    def tick(self) -> Tick:
        """Evaluate the sensor once, as the daemon would."""
        sensor = next(iter(self.defs.sensors or ()))
        assert isinstance(sensor, dg.SensorDefinition)
        with dg.build_sensor_context(
            instance=self.instance,
            definitions=self.defs,
            cursor=self.cursor,
            resources=dict(self.defs.resources or {}),
        ) as context:
            evaluated = sensor.evaluate_tick(context)
        self.cursor = evaluated.cursor
        for event in evaluated.asset_events:
            self.instance.report_runless_asset_event(event)
        return Tick(list(evaluated.run_requests or ()), evaluated.skip_message or "")

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Run what a tick asked for."""
        assert request.job_name is not None
        return self.land(request.job_name, str(request.partition_key), tags=dict(request.tags))

    def land(self, job: str, partition_key: str, **options: Any) -> dg.ExecuteInProcessResult:
        return self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, partition_key=partition_key, raise_on_error=False, **options
        )

    def settle(self, ticks: int = 12) -> int:
        """Tick and run until a tick asks for nothing and nothing is due; return how many runs that took."""
        runs = 0
        for _ in range(ticks):
            requests = self.tick().requests
            with self.account() as account:
                if not requests and not account.counts().due:
                    return runs
            for request in requests:
                result = self.run(request)
                assert result.success, failure_of(result)
                runs += 1
        raise AssertionError(f"not settled after {ticks} ticks")

    def table(self, name: str, partition_key: str) -> pa.Table:
        return pq.read_table(self.root / self.prefix / name / f"{partition_key}.parquet")

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return every row of a table, over all partitions."""
        files = sorted((self.root / self.prefix / name).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]

    def video(self, job_id: str) -> Path:
        (path,) = (self.root / self.prefix / "videos").glob(f"*/{job_id}.mp4")
        return path

    def files(self) -> dict[str, bytes]:
        """Return everything in the storage root, by path."""
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def metadata(self, name: str, partition_key: str) -> dict[str, Any]:
        """Return the metadata of a partition's latest materialisation."""
        records = self.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([self.prefix, name]), asset_partitions=[partition_key]), limit=1
        ).records
        materialization = records[0].asset_materialization
        assert materialization is not None
        return {name: value.value for name, value in materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    """Return why a run failed, in the words that the UI shows."""
    assert not result.success
    texts = []
    for event in result.all_events:
        data = event.event_specific_data
        failure, error = getattr(data, "user_failure_data", None), getattr(data, "error", None)
        texts += [getattr(failure, "description", None) or "", getattr(error, "message", None) or ""]
    return " ".join(texts)


def free_abandoned_generators(caplog: pytest.LogCaptureFixture) -> None:
    """Do what the end of a run's process does: log records hold the errors, and those the abandoned generators."""
    caplog.clear()
    gc.collect()
