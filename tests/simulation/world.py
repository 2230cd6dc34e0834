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
from akool_dagster.ledger import Job
from akool_dagster.operations.adopt import adopt, plan_adoption
from akool_dagster.operations.restore import restore
from akool_dagster.storage import StorageRoot
from tests.deployment import failure_of
from tests.simulation.clock import SimulatedClock
from tests.simulation.effects import Effects, Plan, unheard
from tests.simulation.ledgers import LedgerDatabase

API_KEY = "emulator-key"
HOUR_SECONDS = 3600
DAY_SECONDS = 24 * HOUR_SECONDS
TABLE_JOB, VIDEO_JOB = "land_results", "land_videos"


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
            dagster_run=SimpleNamespace(run_id=self.run_id, status=self.status),
            create_timestamp=datetime.fromtimestamp(self.created_at, UTC),
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
        self.late_writer = False
        """Whether a run was held up right before it published, and overtaken: the one thing nothing can prevent."""
        self.kills = 0
        self.failures: Counter[str] = Counter()
        self.broken: list[str] = []
        self._effects = effects
        self._url = ledger_url
        self._cursor: str | None = None
        self._seen: dict[str, tuple[int, frozenset[str]]] = {}
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
            key = dict(filters.tags or {})["dagster/partition"]
            asked = [run for run in self.runs if (run.job_name, run.partition_key) == (filters.job_name, key)]
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
            ledger.track(self.prefix, [TrackRequest(job_id=one, labels=labels) for one in ids], again=again)
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

    def bring_the_ledger_up_to_the_tables(self) -> None:
        """The operator lost the ledger for good: `ledger restore`, and `ledger adopt` where it says so."""
        root = StorageRoot(str(self.root))
        with JobLedger.open(self._url, clock=self.clock) as ledger:
            report = restore(ledger, root, self.prefix, clock=self.clock, foreign=True)
            assert not report.problems, report.problems
            if report.adoption is not None:
                adopt(ledger, root, self.prefix, plan_adoption(ledger, root, self.prefix))

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

    def jobs(self) -> list[Job]:
        """Return the ledger's jobs."""
        with JobLedger.open(self._url, clock=self.clock) as ledger:
            return list(ledger.iter_jobs(self.prefix))

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
        """Check what must hold at every moment, and remember how far the tables have come."""
        for path in self.files():
            if not path.endswith(".parquet"):
                continue
            table = pq.ParquetFile(self.root / self.prefix / path).read(columns=["_id"])
            revision = int((table.schema.metadata or {})[b"akool/revision"])
            ids = table.column("_id").to_pylist()
            assert len(ids) == len(set(ids)), path
            before, known = self._seen.get(path, (0, frozenset()))
            if not self.late_writer:
                assert revision >= before, f"{path} went back from revision {before} to {revision}"
                assert known <= set(ids), f"{path} has lost {set(known) - set(ids)}"
            self._seen[path] = (max(before, revision), known | set(ids))

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
        for path, (revision, ids) in self._seen.items():
            # A late writer's older file stays where it shows the same: nothing that asks for a landing came since.
            least = min(revision, self._head(path)) if self.late_writer else revision
            schema = pq.read_schema(self.root / self.prefix / path)
            assert int(schema.metadata[b"akool/revision"]) >= least, f"{path} stayed behind revision {least}"
            assert ids <= {row["_id"] for row in self.rows(path.partition("/")[0])}

    def _head(self, path: str) -> int:
        """Return the highest revision of a change that asked for the landing of this file."""
        table, _, name = path.partition("/")
        day = name.removesuffix(".parquet")
        heads = [job.video_head if table == "videos" else job.head for job in self.jobs() if self._day(job) == day]
        return max(heads, default=0)

    @staticmethod
    def _day(job: Job) -> str:
        return datetime.fromtimestamp(job.partition_at / 1000, UTC).strftime("%Y-%m-%d")

    def settle(self, expected: Mapping[str, str]) -> None:
        """Let the deployment go on undisturbed until everything has landed; fail when it does not."""
        self.emulator.faults.clear()
        for seconds in [61] * 6 + [601] * 80:
            for run in self.queued:
                self.start(run)
            asked = self.tick()
            live = [job for job in self.jobs() if job.state == "pending" or job.video_state == "pending"]
            if not asked and not live:
                break
            self.clock.advance(seconds)
        else:
            pytest.fail(f"not settled: {live}, {self.runs[-6:]}")
        self.clock.advance(DAY_SECONDS + 1)  # the event log is asked again once a day
        for _ in range(20):
            asked = self.tick()
            for run in asked:
                self.start(run)
                assert run.status == dg.DagsterRunStatus.SUCCESS, run.reason
            if not asked:
                break
            self.clock.advance(61)
        else:
            pytest.fail(f"runs are asked for without end: {asked}")
        self._check_settled(expected)
        before = self.files()
        for seconds in (3601, DAY_SECONDS + 1):
            self.clock.advance(seconds)
            assert self.tick() == [], "a run is asked for that nobody needs"
        assert self.files() == before
