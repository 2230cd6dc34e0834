"""Tick: the sensor over thousands of partitions that have landed, and over hundreds that have not, on SQLite."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa

from akool_dagster import AkoolResource, JobLedgerResource, build_akool_definitions
from akool_dagster.base.clock import SystemClock
from akool_dagster.ledger import Job, JobState, VideoState
from akool_dagster.ledger.schema import HOUR_MS, hours, landed
from akool_dagster.tables import TABLES
from benchmarks.ledgers import ACCOUNT, create_ledger, ledger_file, pending_job
from benchmarks.report import Line, best_of_rounds, say, seconds

PARTITIONS, QUICK_PARTITIONS = 5_000, 500
DIRTY, QUICK_DIRTY = 500, 50
JOBS_OF_PARTITION = 4
RUNS_OF_PARTITION = 2
ROUNDS = 7
CLEAN_TARGET_SECONDS = 0.1
DIRTY_TARGET_SECONDS = 1.0


def run(quick: bool) -> list[Line]:
    """Measure whole ticks with nothing to poll."""
    logging.disable(logging.INFO)  # each tick logs what it did
    try:
        return _measure(quick)
    finally:
        logging.disable(logging.NOTSET)


def _measure(quick: bool) -> list[Line]:
    partitions, dirty = (QUICK_PARTITIONS, QUICK_DIRTY) if quick else (PARTITIONS, DIRTY)
    say(f"Tick: filling {partitions:,} partitions ...")
    with (
        tempfile.TemporaryDirectory(prefix="akool-bench-") as name,
        dg.DagsterInstance.local_temp(name, overrides={"telemetry": {"enabled": False}}) as instance,
    ):
        folder = Path(name)
        now = SystemClock().now_ms()
        starts = [now - now % HOUR_MS - hour * HOUR_MS for hour in range(1, partitions + 1)]
        url = create_ledger(folder, _settled_jobs(starts))
        _note_landings(folder, starts)
        tick = _ticks(instance, folder, url, starts[-1])
        lines = [_line(f"Tick over {partitions:,} clean partitions", tick, 0, CLEAN_TARGET_SECONDS)]
        _make_dirty(folder, starts[:dirty])
        for start in starts[:dirty]:
            _note_runs(instance, start)
        what = f"Tick over {partitions:,} partitions, {dirty} of them dirty in both kinds, each with runs"
        return [*lines, _line(what, tick, 20, DIRTY_TARGET_SECONDS)]


def _line(what: str, tick: Callable[[], int], requests: int, target: float) -> Line:
    say(f"{what} ...")
    with _counted_statements() as statements:
        asked = tick()
        number = len(statements)
    if asked != requests:
        raise RuntimeError(f"{what}: {asked} runs were asked for, not {requests}")
    took = best_of_rounds({"tick": lambda: seconds(tick)}, ROUNDS)["tick"]
    return Line(
        what=what,
        ours=f"{took * 1000:.0f} ms, {number} ledger statements in all",
        target=f"under {target * 1000:.0f} ms",
        met=took < target,
    )


def _ticks(instance: dg.DagsterInstance, folder: Path, url: str, first: int) -> Callable[[], int]:
    """Return what evaluates the sensor once and returns how many runs it asks for."""
    defs = build_akool_definitions(
        ACCOUNT,
        akool=AkoolResource(api_key="not-used"),
        ledger=JobLedgerResource(url=url),
        storage_root=str(folder / "storage"),
        start_date=datetime.fromtimestamp(first / 1000, UTC).date(),
        granularity="hourly",
        landing_interval_seconds=0,
        run_start_seconds=0,
    )
    sensor = next(iter(defs.sensors or ()))
    assert isinstance(sensor, dg.SensorDefinition)

    def tick() -> int:
        resources: dict[str, Any] = dict(defs.resources or {})
        with dg.build_sensor_context(instance=instance, definitions=defs, resources=resources) as context:
            return len(sensor.evaluate_tick(context).run_requests or ())

    return tick


@contextmanager
def _counted_statements() -> Iterator[Sequence[str]]:
    """Give a list that gets every statement to a ledger while the block lasts."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "akool_" in statement:
            statements.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def _settled_jobs(starts: Sequence[int]) -> Iterator[Job]:
    for start in starts:
        for number in range(JOBS_OF_PARTITION):
            job_id = f"{start // 1000 + number:08x}{number:016x}"
            yield replace(
                pending_job(job_id, start),
                partition_at=start,
                state=JobState.COMPLETED,
                status=3,
                settled_at=start,
                payload=f'{{"_id":"{job_id}"}}',
                video_state=VideoState.STORED,
                video_record="{}",
            )


def _note_landings(folder: Path, starts: Sequence[int]) -> None:
    with closing(sqlite3.connect(ledger_file(folder))) as connection, connection:
        connection.executemany(
            f"INSERT OR REPLACE INTO {hours.name} VALUES (?, ?, 1, 1)",  # noqa: S608
            ((ACCOUNT, start) for start in starts),
        )
        connection.executemany(
            f"INSERT INTO {landed.name} (account, partition_at, asset, version) VALUES (?, ?, ?, 1)",  # noqa: S608
            ((ACCOUNT, start, asset) for start in starts for asset in TABLES),
        )


def _make_dirty(folder: Path, starts: Sequence[int]) -> None:
    with closing(sqlite3.connect(ledger_file(folder))) as connection, connection:
        connection.executemany(
            f"UPDATE {hours.name} SET tables_version = 2, videos_version = 2 WHERE hour_at = ?",  # noqa: S608
            ((start,) for start in starts),
        )


def _note_runs(instance: dg.DagsterInstance, start: int) -> None:
    """Note runs of both kinds, of which the newest never ended: it was killed."""
    key = datetime.fromtimestamp(start / 1000, UTC).strftime("%Y-%m-%d-%H:%M")
    for job_name in (f"{ACCOUNT}_land_results", f"{ACCOUNT}_land_videos"):
        for number in range(RUNS_OF_PARTITION):
            is_newest = number == RUNS_OF_PARTITION - 1
            instance.add_run(
                dg.DagsterRun(
                    job_name=job_name,
                    run_id=str(uuid.uuid4()),
                    status=dg.DagsterRunStatus.STARTING if is_newest else dg.DagsterRunStatus.SUCCESS,
                    tags={"dagster/partition": key, "akool/account": ACCOUNT, "dagster/max_runtime": "3600"},
                )
            )
