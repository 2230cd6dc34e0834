"""Land: a day of settled jobs into the four tables, through Dagster's run of the real asset, against plain PyArrow."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from akool_dagster.api.models import ResultRow
from akool_dagster.assets import build_tables_asset
from akool_dagster.base.clock import SystemClock
from akool_dagster.base.names import AccountNames
from akool_dagster.base.partitions import Granularity, PartitionGrid
from akool_dagster.emulator import JobStatus, population
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.ledger import Job, JobState, VideoState
from akool_dagster.resources import JobLedgerResource
from akool_dagster.tables import RESULT_TABLES
from benchmarks.ledgers import ACCOUNT, DAY, DAY_MS, DAY_START_MS, create_ledger, ledger_file, pending_job
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.report import Line, best_of_rounds, megabytes, say, seconds

JOBS, QUICK_JOBS = 100_000, 10_000
MANY_JOBS = 1_000_000
"""Landed as well, once, when ``AKOOL_BENCH_MANY`` is set."""
ROUNDS = 3
MOST_TIMES_PLAIN = 0.5
MOST_TIMES_FIRST = 1.4
MOST_MEMORY = 300e6
FIRST, AGAIN = "first time", "again, 1 % changed"
QUIETLY = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
GRID = PartitionGrid(Granularity.DAILY, datetime.fromtimestamp(DAY_START_MS / 1000, UTC))


def run(quick: bool) -> list[Line]:
    """Measure landing a day; raises AssertionError when the two ways do not write the same rows."""
    lines = _measured(QUICK_JOBS if quick else JOBS, ROUNDS)
    if not quick and os.environ.get("AKOOL_BENCH_MANY"):
        lines += _measured(MANY_JOBS, 1)
    return lines


def _measured(count: int, rounds: int) -> list[Line]:
    with tempfile.TemporaryDirectory(prefix="akool-bench-") as name:
        folder = Path(name)
        say(f"Land: a ledger with {count:,} settled jobs of one day ...")
        in_fresh_process(_fill, folder, count)
        say("Land: memory ...")
        before, peak = in_fresh_process(_memory_of_landing, folder)
        plain_before, plain_peak = in_fresh_process(_memory_of_plain_writing, folder)
        say(f"Land: {rounds} rounds ...")
        took = in_fresh_process(_rounds, folder, rounds)
    first, again, plain = took[FIRST], took[AGAIN], took["plain"]
    return [
        Line(
            what=f"Land {count:,} settled jobs into four tables",
            ours=f"{first:.2f} s",
            baseline=f"{plain:.2f} s: sqlite3, json.loads, from_pylist and write_table",
            target=f"at most {MOST_TIMES_PLAIN}x; is {first / plain:.2f}x",
            met=first <= MOST_TIMES_PLAIN * plain,
        ),
        Line(
            what=f"Land {count:,} settled jobs again, 1 % of them changed",
            ours=f"{again:.2f} s",
            baseline=f"{first:.2f} s: the first landing",
            target=f"at most {MOST_TIMES_FIRST}x; is {again / first:.2f}x",
            met=again <= MOST_TIMES_FIRST * first,
        ),
        Line(
            what=f"Land {count:,} settled jobs twice: peak memory above the imports",
            ours=megabytes(peak - before),
            baseline=f"{megabytes(plain_peak - plain_before)}: plain PyArrow",
            target=f"below {megabytes(MOST_MEMORY)}",
            met=peak - before < MOST_MEMORY,
        ),
    ]


def _fill(folder: Path, count: int) -> None:
    """Create a ledger with so many settled jobs; of more than `JOBS` most are copies under another id."""
    create_ledger(folder, _settled_jobs(min(count, JOBS)))
    with closing(sqlite3.connect(ledger_file(folder))) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(akool_jobs)") if row[1] != "_id"]
        for number in range(1, count // JOBS):
            copied = f"substr(_id, 1, 8) || printf('%08x%08x', {number}, rowid)"
            connection.execute(
                f"INSERT INTO akool_jobs (_id, {', '.join(columns)}) "  # noqa: S608
                f"SELECT {copied}, {', '.join(columns)} FROM akool_jobs WHERE rowid <= {JOBS}"
            )


def _settled_jobs(count: int) -> Iterator[Job]:
    now = DAY_START_MS + DAY_MS
    for emulated in population(count, seed=0, now_ms=now, days=1):
        failed = emulated.outcome == "failed"
        status = JobStatus.FAILED if failed else JobStatus.COMPLETED
        url = f"https://cdn.example/{emulated.job_id}.mp4"
        settled_ms = emulated.create_time + 60_000
        row = ResultRow.model_validate(emulated.row(status, video_url=url, settled_ms=settled_ms))
        yield replace(
            pending_job(emulated.job_id, now),
            partition_at=min(max(emulated.create_time, DAY_START_MS), now - 1),
            state=JobState.FAILED if failed else JobState.COMPLETED,
            status=int(status),
            queueing_seen_at=emulated.create_time + 1000,
            processing_seen_at=emulated.create_time + 5000,
            settled_at=settled_ms + 5000,
            payload=row.to_payload(),
            labels='{"campaign":"autumn"}',
            video_state=None if failed else VideoState.PENDING,
            video_expires_at=row.expires_ms(now),
        )


def _land(folder: Path, root: Path) -> None:
    names = AccountNames(prefix=ACCOUNT)
    definitions = dg.Definitions(
        assets=[build_tables_asset(names, GRID, list(RESULT_TABLES), SystemClock())],
        jobs=[dg.define_asset_job("land", dg.AssetSelection.all(), executor_def=dg.in_process_executor)],
        resources={
            names.ledger: JobLedgerResource(url=f"sqlite:///{ledger_file(folder)}"),
            names.tables: ParquetIOManager(storage_root=str(root)),
        },
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def("land")
        assert job.execute_in_process(run_config=QUIETLY, partition_key=DAY, instance=instance).success


def _change(folder: Path) -> None:
    """Change one job in a hundred, as a new label would."""
    with closing(sqlite3.connect(ledger_file(folder))) as connection, connection:
        connection.execute("UPDATE akool_ledger SET version = version + 1")
        connection.execute(
            'UPDATE akool_jobs SET version = (SELECT version FROM akool_ledger), labels = \'{"campaign":"winter"}\' '
            "WHERE rowid % 100 = 0"
        )


def _write_plainly(folder: Path, root: Path) -> None:
    query = (
        "SELECT payload, _id, state, status, labels, tracked_at, queueing_seen_at, processing_seen_at, settled_at, "
        "version FROM akool_jobs ORDER BY _id"
    )
    rows = []
    with closing(sqlite3.connect(ledger_file(folder))) as connection:
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description]
        for payload, *values in cursor:
            row = json.loads(payload) | dict(zip(names[1:], values, strict=True))
            rows.append(row | {"extra": json.dumps(row.get("extra", {}))})
    for name, path in _tables(root).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=RESULT_TABLES[name].schema), path)


def _tables(root: Path) -> dict[str, Path]:
    return {name: root / ACCOUNT / name / f"{DAY}.parquet" for name in RESULT_TABLES}


def _memory_of_landing(folder: Path) -> tuple[int, int]:
    before = peak_memory()
    _land(folder, folder / "landed")
    _land(folder, folder / "landed")
    return before, peak_memory()


def _memory_of_plain_writing(folder: Path) -> tuple[int, int]:
    before = peak_memory()
    _write_plainly(folder, folder / "plain")
    peak = peak_memory()
    for name, path in _tables(folder / "plain").items():
        ours, plain = pq.read_table(_tables(folder / "landed")[name]), pq.read_table(path)
        assert ours.num_rows == plain.num_rows
        kept = [column for column in plain.schema.names if plain.column(column).null_count < plain.num_rows]
        assert (
            ours.select(kept)
            .drop_columns(_COMPUTED & set(kept))
            .equals(plain.select(kept).drop_columns(_COMPUTED & set(kept)))
        ), name
    return before, peak


_COMPUTED = {"extra", "status_label", "partition_time"}
"""Columns that plain writing has no values for, or writes differently."""


def _rounds(folder: Path, rounds: int) -> dict[str, float]:
    roots = iter(folder / f"round-{number}" for number in range(rounds))
    root = folder

    def first() -> float:
        nonlocal root
        root = next(roots)
        with closing(sqlite3.connect(ledger_file(folder))) as connection, connection:
            connection.execute("UPDATE akool_accounts SET root_marked = 0")  # each round has a new root
        return seconds(partial(_land, folder, root))

    def again() -> float:
        _change(folder)
        return seconds(partial(_land, folder, root))

    return best_of_rounds(
        {FIRST: first, AGAIN: again, "plain": lambda: seconds(partial(_write_plainly, folder, root / "plain"))}, rounds
    )
