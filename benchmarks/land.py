"""Land: a day of settled jobs into the four tables, through Dagster's run of the real assets, against plain PyArrow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from akool_dagster import AkoolResource, JobLedger, JobLedgerResource, build_akool_definitions
from akool_dagster.api.models import ResultRow
from akool_dagster.emulator import JobStatus, population
from akool_dagster.ledger import Job
from akool_dagster.ledger.transitions import Limits, observe
from akool_dagster.ownership import ensure_owner
from akool_dagster.polling import look_again_ms, observation_of
from akool_dagster.storage import StorageRoot
from akool_dagster.tables import RESULT_TABLES
from benchmarks.ledgers import ACCOUNT, DAY, DAY_MS, DAY_START_MS, create_ledger, pending_job
from benchmarks.processes import in_fresh_process, peak_memory
from benchmarks.report import Line, best_of_rounds, megabytes, say, seconds

JOBS, QUICK_JOBS = 100_000, 10_000
ROUNDS = 3
MOST_TIMES_PLAIN = 3.0
QUIETLY = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


def run(quick: bool) -> list[Line]:
    """Measure landing a day; raises AssertionError when the two ways do not write the same rows."""
    count = QUICK_JOBS if quick else JOBS
    with tempfile.TemporaryDirectory(prefix="akool-bench-") as name:
        folder = Path(name)
        say(f"Land: a ledger with {count:,} settled jobs of one day ...")
        in_fresh_process(_fill, folder, count)
        say("Land: memory ...")
        before, peak = in_fresh_process(_memory_of_landing, folder)
        _save_rows(folder)
        plain_before, plain_peak = in_fresh_process(_memory_of_plain_writing, folder)
        say(f"Land: {ROUNDS} rounds ...")
        took = in_fresh_process(_rounds, folder)
    plain = took["plain"]
    return [
        *(
            Line(
                what=f"Land {count:,} settled jobs, {what}",
                ours=f"{took[what]:.1f} s",
                baseline=f"{plain:.1f} s: json.loads and PyArrow's from_pylist and write_table",
                target=f"at most {MOST_TIMES_PLAIN:.0f}x; is {took[what] / plain:.1f}x",
                met=took[what] <= MOST_TIMES_PLAIN * plain,
            )
            for what in ("first time", "over the files there")
        ),
        Line(
            what=f"Land {count:,} settled jobs: peak memory",
            ours=f"{megabytes(peak)}, {megabytes(before)} of it for imports",
            baseline=f"{megabytes(plain_peak)}, {megabytes(plain_before)} of it for imports and the JSON texts",
        ),
    ]


def _fill(folder: Path, count: int) -> None:
    create_ledger(folder, _settled_jobs(count))


def _settled_jobs(count: int) -> Iterator[Job]:
    now = DAY_START_MS + DAY_MS
    for emulated in population(count, seed=0, now_ms=now, days=1):
        status = JobStatus.FAILED if emulated.outcome == "failed" else JobStatus.COMPLETED
        url = f"https://cdn.example/{emulated.job_id}.mp4"
        settled_ms = emulated.create_time + 60_000
        row = ResultRow.model_validate(emulated.row(status, video_url=url, settled_ms=settled_ms))
        job = observe(pending_job(emulated.job_id, now), observation_of(row, now), now, look_again_ms, Limits())
        yield replace(job, labels='{"campaign":"autumn"}', head=1, video_revision=1, video_head=1)


def _mark(folder: Path, root: Path) -> None:
    """Make an empty folder this ledger's storage root: it has landed in another one before, and would refuse."""
    with JobLedger.open(f"sqlite:///{folder}/ledger.sqlite") as ledger:
        ensure_owner(StorageRoot(str(root)), ACCOUNT, ledger.ledger_id, first=True)


def _land(folder: Path, root: Path) -> None:
    definitions = build_akool_definitions(
        ACCOUNT,
        akool=AkoolResource(api_key="never used"),
        ledger=JobLedgerResource(url=f"sqlite:///{folder}/ledger.sqlite"),
        storage_root=str(root),
        videos=False,
    )
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions.resolve_job_def(f"{ACCOUNT}_land_results")
        assert job.execute_in_process(run_config=QUIETLY, partition_key=DAY, instance=instance).success


def _tables(root: Path) -> dict[str, Path]:
    return {name: root / ACCOUNT / name / f"{DAY}.parquet" for name in RESULT_TABLES}


def _save_rows(folder: Path) -> None:
    """Write what has landed as one JSON text a job, with the columns of all four tables: the input of plain writing."""
    columns: dict[str, list[object]] = {}
    for name, path in _tables(folder / "landed").items():
        table = pq.read_table(path)
        for field in RESULT_TABLES[name].schema:
            plain = table.column(field.name)
            columns[field.name] = (plain.cast(pa.int64()) if pa.types.is_timestamp(field.type) else plain).to_pylist()
    with (folder / "rows.jsonl").open("w") as file:
        for values in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, values, strict=True))) + "\n")


def _texts(folder: Path) -> list[str]:
    return (folder / "rows.jsonl").read_text().splitlines()


def _write_plainly(texts: list[str], root: Path) -> None:
    rows = [json.loads(text) for text in texts]
    for name, path in _tables(root).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=RESULT_TABLES[name].schema), path)


def _memory_of_landing(folder: Path) -> tuple[int, int]:
    before = peak_memory()
    _land(folder, folder / "landed")
    return before, peak_memory()


def _memory_of_plain_writing(folder: Path) -> tuple[int, int]:
    texts = _texts(folder)
    before = peak_memory()
    _write_plainly(texts, folder / "plain")
    for name, path in _tables(folder / "plain").items():
        assert pq.read_table(path).equals(pq.read_table(_tables(folder / "landed")[name])), name
    return before, peak_memory()


def _rounds(folder: Path) -> dict[str, float]:
    texts = _texts(folder)
    roots = iter(folder / f"round-{number}" for number in range(ROUNDS))
    root = folder

    def first() -> float:
        nonlocal root
        root = next(roots)
        _mark(folder, root)
        return seconds(partial(_land, folder, root))

    return best_of_rounds(
        {
            "first time": first,
            "over the files there": lambda: seconds(lambda: _land(folder, root)),
            "plain": lambda: seconds(lambda: _write_plainly(texts, root / "plain")),
        },
        ROUNDS,
    )
