"""Ledgers with many jobs, filled faster than tracking and polling would."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from akool_dagster.ledger import Job, JobLedger
from akool_dagster.ledger.rows import new_job_row
from akool_dagster.ledger.schema import jobs

ACCOUNT = "akool"
DAY = "2025-10-06"
DAY_START_MS = 1_759_708_800_000
DAY_MS = 86_400_000
_HOURS = """
INSERT INTO akool_hours
SELECT account, partition_at - partition_at % 3600000, max(version), max(iif(video_state IS NULL, 0, version))
FROM akool_jobs WHERE settled_at IS NOT NULL GROUP BY 1, 2
"""


def ledger_file(folder: Path) -> Path:
    """Return where the one ledger in a folder lies."""
    return folder / "ledger.sqlite"


def job_ids(count: int) -> list[str]:
    """Return distinct ids as Akool makes them, spread evenly over `DAY`, in order."""
    return [f"{DAY_START_MS // 1000 + 86_400 * index // count:08x}{index:016x}" for index in range(count)]


def pending_job(job_id: str, now_ms: int) -> Job:
    """Return a job as it stands just after it was tracked."""
    nothing = dict.fromkeys(field.name for field in fields(Job))
    return Job(**{**nothing, **new_job_row(ACCOUNT, job_id, {}, now_ms, 1)})


def create_ledger(folder: Path, content: Iterable[Job]) -> str:
    """Create a ledger with these jobs, written straight into the migrated file, and return its URL."""
    file = ledger_file(folder)
    url = f"sqlite:///{file}"
    JobLedger.create(url).close()
    names = [column.name for column in jobs.columns]
    insert = f"INSERT INTO {jobs.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        with connection:
            connection.executemany(insert, map(attrgetter(*jobs.columns.keys()), content))
            connection.execute("UPDATE akool_ledger SET version = 1")
            connection.execute(_HOURS)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return url
