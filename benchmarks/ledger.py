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

from akool_dagster.base.clock import SystemClock
from akool_dagster.emulator import EmulatedJob, JobStatus
from akool_dagster.ledger import AccountLedger, Answered, Job, JobLedger, Polling
from akool_dagster.polling import DEFAULT_IDS_PER_REQUEST, next_poll_delay_ms
from benchmarks.ledgers import ACCOUNT, create_ledger, job_ids, ledger_file, pending_job
from benchmarks.report import Line, megabytes, say

ROWS, QUICK_ROWS = 1_000_000, 100_000
ROUNDS, QUICK_ROUNDS = 300, 100
MOST_TIMES_BARE = 2.0
HOUR_MS = 3_600_000
IDS = DEFAULT_IDS_PER_REQUEST
POLLING = Polling(next_poll_delay_ms=next_poll_delay_ms, ids_per_request=IDS)
ANSWERS: Mapping[str, JobStatus] = {"all settle": JobStatus.COMPLETED, "all go on": JobStatus.PROCESSING}
CLAIM = "UPDATE akool_jobs SET next_poll_at = ? WHERE account = ? AND _id = ?"
SETTLE = (
    "UPDATE akool_jobs SET state = 'completed', video_state = 'pending', status = 3, payload = ?, settled_at = ?,"
    " video_next_at = settled_at, polls = polls + 1, last_polled_at = settled_at, version = ?"
    " WHERE account = ? AND _id = ?"
)
GO_ON = (
    "UPDATE akool_jobs SET status = 2, payload = ?, processing_seen_at = ?, next_poll_at = ?,"
    " polls = polls + 1, version = ? WHERE account = ? AND _id = ?"
)


def run(quick: bool) -> list[Line]:
    """Measure claiming and recording."""
    rows, rounds = (QUICK_ROWS, QUICK_ROUNDS) if quick else (ROWS, ROUNDS)
    now = SystemClock().now_ms()
    with tempfile.TemporaryDirectory(prefix="akool-bench-") as folder:
        say(f"Ledger: filling {rows:,} rows ...")
        in_order = rounds * len(ANSWERS) * 2 * IDS
        url = create_ledger(Path(folder), _polled_jobs(job_ids(rows), now, in_order))
        file = ledger_file(Path(folder))
        what = f"Ledger of {rows:,} pending rows ({megabytes(file.stat().st_size)}): take {IDS} due ids, record answers"
        lines = []
        with JobLedger.open(url) as ledger, closing(_bare_connection(file)) as connection:
            account = ledger.account(ACCOUNT)
            for order in ("due as tracked", "due in random order"):
                say(f"Ledger: {rounds} rounds of {IDS} ids, {order} ...")
                ours: dict[str, list[float]] = {name: [] for name in ANSWERS}
                bare: dict[str, list[float]] = {name: [] for name in ANSWERS}
                for _ in range(rounds):
                    for name, status in ANSWERS.items():
                        ours[name].append(_our_round(account, status))
                        bare[name].append(_bare_round(connection, status, now))
                for name in ANSWERS:
                    times = median(ours[name]) / median(bare[name])
                    lines.append(
                        Line(
                            what=f"{what}, {order}, {name}",
                            ours=_spread(ours[name]),
                            baseline=f"{_spread(bare[name])}: the same two transactions, hand-written in sqlite3",
                            target=f"p50 at most {MOST_TIMES_BARE:.0f}x; is {times:.1f}x",
                            met=times <= MOST_TIMES_BARE,
                        )
                    )
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


def _our_round(account: AccountLedger, status: JobStatus) -> float:
    """Return the milliseconds of one claim and one record."""
    begun = perf_counter()
    claims = account.polling.claim(IDS)
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
    report = account.polling.record(answers, POLLING)
    took = claimed + perf_counter() - begun
    assert report.changed == IDS, report
    return took * 1000


def _bare_connection(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _bare_round(connection: sqlite3.Connection, status: JobStatus, now_ms: int) -> float:
    """Return the milliseconds of the same claim and record, without what protects a real ledger."""
    begun = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    due = connection.execute(
        "SELECT _id FROM akool_jobs WHERE account = ? AND state = 'pending' AND next_poll_at <= ?"
        " ORDER BY next_poll_at, _id LIMIT ?",
        (ACCOUNT, now_ms, IDS),
    ).fetchall()
    connection.executemany(CLAIM, [(now_ms + HOUR_MS, ACCOUNT, job_id) for (job_id,) in due])
    connection.execute("COMMIT")
    claimed = perf_counter() - begun
    payloads = [(job_id, _payload(job_id, status)) for (job_id,) in due]
    begun = perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    ((version,),) = connection.execute("UPDATE akool_ledger SET version = version + 1 RETURNING version").fetchall()
    if status is JobStatus.COMPLETED:
        connection.executemany(SETTLE, [(payload, now_ms, version, ACCOUNT, job_id) for job_id, payload in payloads])
        connection.executemany(
            "INSERT OR REPLACE INTO akool_hours VALUES (?, ?, ?, ?)",
            {(ACCOUNT, int(job_id[:8], 16) // 3600 * HOUR_MS, version, version) for job_id, _ in payloads},
        )
    else:
        rows = [(payload, now_ms, now_ms + HOUR_MS, version, ACCOUNT, job_id) for job_id, payload in payloads]
        connection.executemany(GO_ON, rows)
    connection.execute("COMMIT")
    return (claimed + perf_counter() - begun) * 1000


def _p99(milliseconds: Sequence[float]) -> float:
    return quantiles(milliseconds, n=100)[98]


def _spread(milliseconds: Sequence[float]) -> str:
    return f"p50 {median(milliseconds):.1f} ms, p99 {_p99(milliseconds):.1f} ms"
