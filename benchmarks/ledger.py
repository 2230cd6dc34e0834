"""Ledger: taking 50 due ids out of a million pending ones and recording their answers, on SQLite."""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from akool_dagster.clock import SystemClock
from akool_dagster.emulator import EmulatedJob, JobStatus
from akool_dagster.ledger import Answered, Job, JobLedger
from akool_dagster.polling import DEFAULT_IDS_PER_REQUEST, look_again_ms
from benchmarks.ledgers import ACCOUNT, create_ledger, job_ids, ledger_file, pending_job
from benchmarks.report import Line, megabytes, say

ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 300, 100
TARGET_MS = 50.0
HOUR_MS = 3_600_000
IDS = DEFAULT_IDS_PER_REQUEST
BARE = "bare"
CONTENDERS: Mapping[str, JobStatus | None] = {
    "all settle": JobStatus.COMPLETED,
    "all go on": JobStatus.PROCESSING,
    BARE: None,
}


def run(quick: bool) -> list[Line]:
    """Measure claiming and recording."""
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if quick else (ROWS, ROUNDS)
    now = SystemClock().now_ms()
    with tempfile.TemporaryDirectory(prefix="akool-bench-") as folder:
        say(f"Ledger: filling {rows:,} rows ...")
        in_order = rounds * len(CONTENDERS) * IDS
        url = create_ledger(Path(folder), _polled_jobs(job_ids(rows), now, in_order))
        file = ledger_file(Path(folder))
        what = f"Ledger of {rows:,} pending rows ({megabytes(file.stat().st_size)}): take {IDS} due ids, record answers"
        lines = []
        with JobLedger.open(url) as ledger, closing(_bare_connection(file)) as connection:
            for order in ("due as tracked", "due in random order"):
                say(f"Ledger: {rounds} rounds of {IDS} ids, {order} ...")
                took: dict[str, list[float]] = {name: [] for name in CONTENDERS}
                for _ in range(rounds):
                    for name, status in CONTENDERS.items():
                        took[name].append(
                            _bare_round(connection, now) if status is None else _our_round(ledger, status)
                        )
                bare = f"{_spread(took.pop(BARE))}: the same two transactions, hand-written in sqlite3, all settle"
                lines += [
                    Line(
                        what=f"{what}, {order}, {name}",
                        ours=_spread(times),
                        baseline=bare,
                        target=f"p99 under {TARGET_MS:.0f} ms",
                        met=_p99(times) < TARGET_MS,
                    )
                    for name, times in took.items()
                ]
    return lines


def _polled_jobs(ids: Sequence[str], now_ms: int, in_order: int) -> Iterator[Job]:
    """Yield jobs that were seen queueing once and are all due.

    The first ones are due first, one after the other, as jobs are that were tracked and polled together. The others
    are due in an order that has nothing of their places in the file: the most pages a call can touch.
    """
    order = random.Random(0)
    tracked = now_ms - 2 * HOUR_MS
    template = pending_job(ids[0], tracked)
    payload = _payload(ids[0], JobStatus.QUEUEING)
    for index, job_id in enumerate(ids):
        yield replace(
            template,
            job_id=job_id,
            partition_at=int(job_id[:8], 16) * 1000,
            next_poll_at=tracked + index if index < in_order else now_ms - order.randrange(HOUR_MS),
            status=int(JobStatus.QUEUEING),
            polls=1,
            last_polled_at=tracked,
            queueing_seen_at=tracked,
            payload=payload.replace(ids[0], job_id),
        )


def _payload(job_id: str, status: JobStatus) -> str:
    settled_ms = int(job_id[:8], 16) * 1000 + 60_000 if status is JobStatus.COMPLETED else None
    url = f"https://cdn.example/{job_id}.mp4"
    return json.dumps(EmulatedJob(job_id=job_id).row(status, video_url=url, settled_ms=settled_ms))


def _our_round(ledger: JobLedger, status: JobStatus) -> float:
    """Return the milliseconds of one claim and one record."""
    begun = perf_counter()
    claims = ledger.claim(ACCOUNT, IDS)
    claimed = perf_counter() - begun
    answers = [
        Answered(
            job_id=claim.job_id,
            status=int(status),
            payload=_payload(claim.job_id, status),
            has_video_url=status is JobStatus.COMPLETED,
            video_expires_at=0,
        )
        for claim in claims
    ]
    begun = perf_counter()
    report = ledger.record(ACCOUNT, answers, look_again_ms)
    took = claimed + perf_counter() - begun
    assert report.changed == IDS, report
    return took * 1000


def _bare_connection(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _bare_round(connection: sqlite3.Connection, now_ms: int) -> float:
    begun = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    due = connection.execute(
        "SELECT _id FROM akool_jobs WHERE account = ? AND state = 'pending' AND next_poll_at <= ?"
        " ORDER BY next_poll_at, _id LIMIT ?",
        (ACCOUNT, now_ms, IDS),
    ).fetchall()
    connection.executemany(
        "UPDATE akool_jobs SET next_poll_at = ? WHERE account = ? AND _id = ?",
        [(now_ms + HOUR_MS, ACCOUNT, job_id) for (job_id,) in due],
    )
    connection.execute("COMMIT")
    claimed = perf_counter() - begun
    rows = [(_payload(job_id, JobStatus.COMPLETED), now_ms, ACCOUNT, job_id) for (job_id,) in due]
    begun = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "UPDATE akool_jobs SET state = 'completed', video_state = 'pending', status = 3, payload = ?, settled_at = ?"
        " WHERE account = ? AND _id = ?",
        rows,
    )
    connection.execute("COMMIT")
    return (claimed + perf_counter() - begun) * 1000


def _p99(milliseconds: Sequence[float]) -> float:
    return quantiles(milliseconds, n=100)[98]


def _spread(milliseconds: Sequence[float]) -> str:
    return f"p50 {median(milliseconds):.1f} ms, p99 {_p99(milliseconds):.1f} ms"
