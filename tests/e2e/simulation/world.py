"""One deployment in simulated time: what its operator, Dagster's daemon and its runs do to each other."""

from __future__ import annotations

import gc
import random
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from akool_dagster import (
    TABLES,
    AkoolClient,
    AkoolResource,
    JobLedger,
    JobLedgerResource,
    TrackRequest,
    VideoStoreResource,
    build_akool_definitions,
)
from akool_dagster.api import ApiKey
from akool_dagster.emulator import AkoolEmulator
from akool_dagster.ledger import AccountLedger, Job
from akool_dagster.operations.adopt import adopt, plan_adoption
from akool_dagster.operations.prune import prune
from akool_dagster.storage import StorageRoot
from tests.deployment import failure_of
from tests.e2e.simulation.clock import SimulatedClock
from tests.e2e.simulation.effects import Effects, Plan, unheard
from tests.e2e.simulation.ledgers import LedgerDatabase

API_KEY = "emulator-key"
HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
RECOVERY_SECONDS = 120
"""After everything was killed, the next landing of a dirty partition is asked for within this time."""
TABLE_NAMES = [name for name in TABLES if name != "videos"]
FURTHER = {"completed": 1, "failed": 1, "unverified": 1, "stored": 2}
"""How far a row is by its state; a landing never takes a row back."""


@dataclass
class Run:
    """A run that the daemon was asked for, in simulated time."""

    job_name: str
    partition_key: str
    created_at: float
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.QUEUED
    started_at: float | None = None
    ended_at: float | None = None
    reason: str = ""

    def record(self) -> Any:
        """Return what Dagster would tell of it: its own records have the times of the machine."""
        return SimpleNamespace(
            dagster_run=SimpleNamespace(
                run_id=self.run_id, status=self.status, tags={"dagster/partition": self.partition_key}
            ),
            create_timestamp=datetime.fromtimestamp(self.created_at, UTC),
            update_timestamp=datetime.fromtimestamp(self.started_at or self.created_at, UTC),
            start_time=self.started_at,
            end_time=self.ended_at,
        )


class World:
    """A deployment. Every process that it runs can be given a `Plan`."""

    def __init__(self, folder: Path, ledger_url: str, emulator: AkoolEmulator, effects: Effects) -> None:
        self.prefix = f"a{uuid.uuid4().hex[:12]}"
        self.emulator = emulator
        # In the past, so that the partitions of its future exist for Dagster, which lives by the machine's clock.
        self.began = int((datetime.now(UTC) - timedelta(days=25)).replace(hour=12).timestamp())
        self.clock = SimulatedClock(self.began * 1000)
        self.root = folder / self.prefix
        self.tracked: dict[str, dict[str, str]] = {}
        self.runs: list[Run] = []
        self.kills = 0
        self.failures: Counter[str] = Counter()
        self.broken: list[str] = []
        self._effects = effects
        self._url = ledger_url
        self._cursor: str | None = None
        self._seen: dict[str, dict[str, tuple[int, int]]] = {}
        self._final: dict[str, str] = {}
        self.database = LedgerDatabase(ledger_url)
        JobLedger.create(ledger_url, clock=self.clock).close()
        self.database.make_anew()
        self.instance = dg.DagsterInstance.ephemeral()
        self._watch_instance()
        self.defs = self._definitions()
        self._sensor = next(iter(self.defs.sensors or ()))

    def close(self) -> None:
        self.database.close()
        self.instance.dispose()
        shutil.rmtree(self.root, ignore_errors=True)

    def _definitions(self) -> dg.Definitions:
        clock = self.clock

        class SimulatedAkool(AkoolResource):
            def client(self) -> AkoolClient:
                return AkoolClient(ApiKey(API_KEY), base_url=self.base_url, clock=clock, rng=random.Random(0))

        class SimulatedLedger(JobLedgerResource):
            def open(self) -> JobLedger:
                return JobLedger.open(self.url, clock=clock)

        return build_akool_definitions(
            self.prefix,
            akool=SimulatedAkool(base_url=self.emulator.base_url),
            ledger=SimulatedLedger(url=self._url),
            storage_root=str(self.root),
            start_date=datetime.fromtimestamp(self.began, UTC).date() - timedelta(days=3),
            video_store=VideoStoreResource(storage_root=str(self.root), threads=1),
            clock=clock,
        )

    def _watch_instance(self) -> None:
        handle = self.instance.handle_new_event

        def handled(event: Any, **options: Any) -> None:
            self._effects.reach("before event")
            handle(event, **options)
            self._effects.reach("after event")

        def records(filters: dg.RunsFilter, limit: int) -> list[Any]:
            keys = dict(filters.tags or {})["dagster/partition"]
            asked = [run for run in self.runs if run.job_name == filters.job_name and run.partition_key in keys]
            return [run.record() for run in reversed(asked)][:limit]

        self.instance.handle_new_event = handled  # type: ignore[method-assign]
        self.instance.get_run_records = records  # type: ignore[method-assign,assignment]

    # What happens

    @contextmanager
    def _process(self, plan: Plan | None) -> Iterator[list[bool]]:
        """Run a process; it says in the list that is given whether it ended well."""
        with self._effects.life(plan) as life:
            ended_well: list[bool] = []
            try:
                yield ended_well
            except Exception as error:
                self.failures[type(error).__name__] += 1
                del error
            finally:
                if ended_well != [True]:
                    # A process takes its generators with it: now, and not when a later one happens to clean up.
                    with unheard():
                        gc.collect()
        self.kills += life.dead
        try:
            self._look()
        except AssertionError as error:  # Dagster would swallow it where this process ran inside of another
            self.broken.append(str(error))
        if not self._effects.inside:
            assert not self.broken, self.broken

    def track(
        self, ids: Sequence[str], labels: Mapping[str, str], *, again: bool = False, plan: Plan | None = None
    ) -> None:
        """The user tracks ids."""
        for job_id in ids:
            self.tracked.setdefault(job_id, {}).update(labels)
        with self._process(plan) as ended_well, JobLedger.create(self._url, clock=self.clock) as ledger:
            ledger.account(self.prefix).track([TrackRequest(job_id=one, labels=labels) for one in ids], again=again)
            ended_well.append(True)

    def tick(self, plan: Plan | None = None) -> list[Run]:
        """The daemon evaluates the sensor and launches what it asks for; return those runs."""
        asked: list[Run] = []
        with (
            self._process(plan) as ended_well,
            dg.build_sensor_context(
                instance=self.instance,
                definitions=self.defs,
                cursor=self._cursor,
                resources=dict(self.defs.resources or {}),
            ) as context,
        ):
            assert isinstance(self._sensor, dg.SensorDefinition)
            evaluated = self._sensor.evaluate_tick(context)
            self._cursor = evaluated.cursor
            for event in evaluated.asset_events:
                self.instance.report_runless_asset_event(event)
            now = self.clock.now_ms() / 1000
            for request in evaluated.run_requests or ():
                run = Run(str(request.job_name), str(request.partition_key), now)
                assert not any(
                    (other.job_name, other.partition_key, other.status)
                    == (run.job_name, run.partition_key, dg.DagsterRunStatus.QUEUED)
                    for other in self.runs
                ), f"{run.job_name} of {run.partition_key} is queued already"
                self.runs.append(run)
                asked.append(run)
            ended_well.append(True)
        return asked

    @property
    def queued(self) -> list[Run]:
        """Return the runs that wait to be started."""
        return [run for run in self.runs if run.status == dg.DagsterRunStatus.QUEUED]

    def start(self, run: Run, plan: Plan | None = None) -> None:
        """The daemon starts a queued run."""
        run.status, run.started_at = dg.DagsterRunStatus.STARTED, self.clock.now_ms() / 1000
        with self._process(plan) as ended_well:
            result = self.defs.resolve_job_def(run.job_name).execute_in_process(
                instance=self.instance, partition_key=run.partition_key, raise_on_error=False, run_id=run.run_id
            )
            run.status = dg.DagsterRunStatus.SUCCESS if result.success else dg.DagsterRunStatus.FAILURE
            run.ended_at = self.clock.now_ms() / 1000
            run.reason = "" if result.success else failure_of(result)
            ended_well.append(result.success)
            del result

    def drop(self, run: Run) -> None:
        """The run could not be launched."""
        run.status, run.ended_at = dg.DagsterRunStatus.FAILURE, self.clock.now_ms() / 1000

    def materialize(self, names: Sequence[str], partition_key: str, plan: Plan | None = None) -> None:
        """The user materializes some assets of a partition in the UI; a backfill is many of these."""
        with self._process(plan) as ended_well:
            result = self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
                instance=self.instance,
                partition_key=partition_key,
                asset_selection=[dg.AssetKey([self.prefix, name]) for name in names],
                raise_on_error=False,
            )
            ended_well.append(result.success)
            del result

    def prune(self, plan: Plan | None = None) -> None:
        """The operator prunes whatever has landed and ended over a day ago."""
        with self._process(plan) as ended_well, JobLedger.open(self._url, clock=self.clock) as ledger:
            root = StorageRoot(str(self.root))
            prune(ledger, ledger.account(self.prefix), root, older_than_days=1, clock=self.clock)
            ended_well.append(True)

    def adopt(self) -> None:
        """The operator has changed the ledger: `ledger adopt`."""
        root = StorageRoot(str(self.root))
        with self.account() as account:
            adopt(account, root, plan_adoption(account, root), clock=self.clock)

    def asks_again(self, run: Run) -> bool:
        """Tick twice a minute; return whether a killed run's landing is asked for in time, or nothing is to land."""
        for _ in range(0, RECOVERY_SECONDS, 30):
            self.clock.advance(30)
            asked = [(one.job_name, one.partition_key) for one in self.tick()]
            lands_videos = run.job_name.endswith("videos")
            if (run.job_name, run.partition_key) in asked or not self.is_dirty(not lands_videos, lands_videos):
                return True
        return False

    def set_the_clock_right(self) -> None:
        """The operator sees a clock that lies behind: rows of a day to come land when that day comes."""
        self.clock.jump(max(0, self.began - self.clock.now_ms() / 1000))

    def wipe_event_log(self) -> None:
        """The user wipes the assets' events."""
        self.instance.wipe_assets([dg.AssetKey([self.prefix, name]) for name in TABLES])

    # What is there

    def partition_keys(self) -> list[str]:
        """Return the days that the tracked jobs may be in."""
        first = datetime.fromtimestamp(self.began, UTC) - timedelta(days=2)
        return [(first + timedelta(days=day)).strftime("%Y-%m-%d") for day in range(4)]

    @contextmanager
    def account(self) -> Iterator[AccountLedger]:
        """Give the account's part of the ledger."""
        with JobLedger.open(self._url, clock=self.clock) as ledger:
            yield ledger.account(self.prefix)

    def jobs(self) -> list[Job]:
        """Return the ledger's jobs."""
        with self.account() as account:
            return list(account.jobs())

    def is_dirty(self, tables: bool = True, videos: bool = True) -> bool:
        """Return whether anything is to land, of the tables and of the videos."""
        with self.account() as account:
            dirty = account.landings.dirty(DAY_SECONDS * 1000, TABLE_NAMES if tables else [], videos=videos)
            return bool(dirty or (videos and account.videos.due_hours()))

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return every row of a table, over all partitions."""
        files = sorted((self.root / self.prefix / name).glob("*.parquet"))
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]

    def files(self) -> set[str]:
        """Return the paths of the files that are not hidden, below the account's folder."""
        folder = self.root / self.prefix
        return {
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        }

    def _look(self) -> None:
        """Check what must hold at all times: a row never goes, and never goes back."""
        for path in self.files():
            if not path.endswith(".parquet"):
                continue
            name = path.partition("/")[0]
            state = {"statuses": "state", "videos": "video_state"}.get(name, "status_label")
            rows = pq.ParquetFile(self.root / self.prefix / path).read(columns=["_id", state, "version"]).to_pylist()
            shown = {row["_id"]: (FURTHER.get(row[state], 0), row["version"]) for row in rows}
            assert len(shown) == len(rows), path
            for job_id, before in self._seen.get(path, {}).items():
                assert job_id in shown, f"{path} has lost {job_id}"
                assert shown[job_id] >= before, f"{job_id} went back in {path}: {before} to {shown[job_id]}"
            self._seen[path] = shown

    def check_final_states(self) -> None:
        """Check that no final job has moved."""
        for job in self.jobs():
            if job.state in ("completed", "failed"):
                assert self._final.setdefault(job.job_id, job.state) == job.state
            else:
                assert job.job_id not in self._final, f"{job.job_id} is {job.state} again"

    @property
    def has_an_owner(self) -> bool:
        """Return whether a ledger has landed here."""
        return (self.root / self.prefix / "ledger.json").exists()

    def forget_final_states(self) -> None:
        """The ledger was put back to an earlier moment."""
        self._final.clear()

    def _check_settled(self, expected: Mapping[str, str]) -> None:
        """Check everything against what Akool would say: the state of every tracked id."""
        assert {job.job_id: job.state for job in self.jobs()} == expected
        ended = sorted(job_id for job_id, state in expected.items() if state in ("completed", "failed"))
        completed = sorted(job_id for job_id, state in expected.items() if state == "completed")
        for name in ("results", "credits", "durations"):
            assert sorted(row["_id"] for row in self.rows(name)) == ended, name
        statuses = self.rows("statuses")
        assert sorted(row["_id"] for row in statuses) == sorted(expected)
        assert {row["_id"]: row["state"] for row in statuses} == expected
        videos = self.rows("videos")
        assert sorted(row["_id"] for row in videos) == completed
        assert {row["video_state"] for row in videos} <= {"stored"}
        for row in videos:
            assert (self.root / row["path"]).read_bytes() == self.emulator.video_bytes(row["_id"])
        mp4s = {path for path in self.files() if path.endswith(".mp4")}
        assert mp4s == {row["path"].removeprefix(f"{self.prefix}/") for row in videos}

    def settle(self, expected: Mapping[str, str]) -> None:
        """Let the deployment go on undisturbed until everything has landed; fail when it does not."""
        self.emulator.faults.clear()
        for seconds in [61] * 6 + [601] * 80:
            for run in self.queued:
                self.start(run)
            asked = self.tick()
            live = [job for job in self.jobs() if job.state == "pending" or job.video_state == "pending"]
            if not asked and not live and not self.is_dirty():
                break
            self.clock.advance(seconds)
        else:
            pytest.fail(f"not settled: {live}, {self.runs[-6:]}")
        self._look()
        self._check_settled(expected)
        before = self.files()
        for seconds in (3601, DAY_SECONDS + 1):
            self.clock.advance(seconds)
            assert self.tick() == [], "a run is asked for that nobody needs"
        assert self.files() == before
