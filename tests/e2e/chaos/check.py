"""The independent check of a deployment: tables, files, ledger, event log and the journal of requests.

It reads them with pyarrow, the databases' own drivers and the file system alone; nothing of the package under test.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import requests

from tests.e2e.chaos.databases import LedgerDatabase, Row
from tests.e2e.chaos.findings import Finding, Harm
from tests.secrets import Haystack

TABLES = ("results", "credits", "durations", "statuses", "videos")
TABLES_OF_ENDED_JOBS = ("results", "credits", "durations")
COMPLETED, FAILED = 3, 4
DAY_MS = 86_400_000
READING = frozenset({("POST", "resultsByIds"), ("GET", "cdn"), ("GET", "quota/info"), ("POST", "getToken")})
SHORTENED_URLS = frozenset({"image_url", "audio_url"})
"""These lose their query; ``webhookUrl`` its path too."""


class Request(Protocol):
    """A line of the emulator's journal."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def auth_headers(self) -> Sequence[str]: ...


def ask_akool(base_url: str, api_key: str, ids: Sequence[str]) -> dict[str, Row]:
    """Return the rows that Akool holds of these ids, by id. Raises when it does not answer."""
    answer = requests.post(
        f"{base_url}/api/open/v4/image2Video/resultsByIds",
        json={"_ids": ",".join(ids)},
        headers={"x-api-key": api_key},
        timeout=20,
    )
    answer.raise_for_status()
    return {row["_id"]: row for row in answer.json()["data"]["result"]}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is checked, and what it is checked against."""

    home: Path
    """Everything the deployment has ever written is below it."""
    ledger: LedgerDatabase
    tables: Path
    """The account's folder in the storage root."""
    instance: dg.DagsterInstance
    labels: Mapping[str, Mapping[str, str]]
    """The labels of every tracked id."""
    truth: Mapping[str, Row]
    """What Akool holds of those that it knows."""
    video_of: Callable[[str], bytes]
    journal: Sequence[Request]
    secrets: Mapping[str, str]
    """What belongs into the environment of processes and nowhere else, by its name."""
    stale_seconds: float
    """How old a killed process's temporary file must be before it is removed."""

    @cached_property
    def ended(self) -> set[str]:
        """The ids of jobs that have completed or failed at Akool."""
        return {job_id for job_id, row in self.truth.items() if row["status"] in (COMPLETED, FAILED)}

    @cached_property
    def completed(self) -> set[str]:
        """The ids of jobs that have a video."""
        return {job_id for job_id, row in self.truth.items() if row["status"] == COMPLETED}

    def belong_to(self, table: str) -> Collection[str]:
        """Return the ids that a table must have."""
        if table in TABLES_OF_ENDED_JOBS:
            return self.ended
        return self.completed if table == "videos" else self.labels.keys()

    def state_of(self, job_id: str) -> str:
        """Return the state that a job must be in."""
        if job_id not in self.truth:
            return "missing"
        return {COMPLETED: "completed", FAILED: "failed"}.get(self.truth[job_id]["status"], "pending")


def examine(evidence: Evidence) -> list[Finding]:
    """Return everything that is wrong, worst first."""
    checks = (check_tables, check_videos, check_ledger, check_event_log, check_files, check_secrets, check_journal)
    return sorted({finding for check in checks for finding in check(evidence)})


def day_of(job_id: str) -> str:
    """Return the day (UTC) in which an ObjectId was made."""
    return datetime.fromtimestamp(int(job_id[:8], 16), UTC).date().isoformat()


def check_tables(evidence: Evidence) -> Iterator[Finding]:
    """Find rows that are lost, doubled, in another partition than theirs, or not as Akool has them."""
    for table in TABLES:
        found: Counter[str] = Counter()
        for file in sorted((evidence.tables / table).glob("*.parquet")):
            for row in _readable_rows(file):
                found[row["_id"]] += 1
                yield from _check_row(evidence, table, file.stem, row)
        for job_id in evidence.belong_to(table):
            if found[job_id] == 0:
                yield Finding(Harm.LOST, f"{job_id} has no row in {table}")
        for job_id, rows_of_it in found.items():
            if rows_of_it > 1:
                yield Finding(Harm.DOUBLED, f"{job_id} has {rows_of_it} rows in {table}")
            if job_id not in evidence.belong_to(table):
                yield Finding(Harm.WRONG, f"{job_id} does not belong to {table}")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return every row of a Parquet file, times as milliseconds. Raises when it is no whole Parquet file."""
    table = pq.ParquetFile(file).read()
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(index, field.name, table.column(index).cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _readable_rows(file: Path) -> list[dict[str, Any]]:
    try:
        return read_rows(file)
    except (pa.ArrowException, OSError):
        return []  # check_files names it


def _check_row(evidence: Evidence, table: str, day: str, row: Row) -> Iterator[Finding]:
    job_id = row["_id"]
    where = f"{job_id} in {table}"
    if day_of(job_id) != day or row["partition_time"] != _midnight_ms(day):
        yield Finding(Harm.WRONG, f"{where} of {day} belongs to {day_of(job_id)}")
    truth = evidence.truth.get(job_id, {})
    for name in truth.keys() & row.keys():
        if row[name] != (wanted := _as_landed(name, truth[name])):
            yield Finding(Harm.WRONG, f"{where}: {name} is {row[name]!r}, not {wanted!r}")
    if "labels" in row and json.loads(row["labels"]) != evidence.labels.get(job_id, {}):
        yield Finding(Harm.WRONG, f"{where}: labels are {row['labels']}")
    if "extra" in row:
        unnamed = {name: value for name, value in truth.items() if name not in row}
        if not unnamed.items() <= json.loads(row["extra"]).items():
            yield Finding(Harm.WRONG, f"{where}: extra is {row['extra']}")
    if table == "statuses" and row["state"] != evidence.state_of(job_id):
        yield Finding(Harm.WRONG, f"{where}: state is {row['state']}, not {evidence.state_of(job_id)}")
    if table == "statuses" and row["failure_reason"] != truth.get("error_reason"):
        yield Finding(Harm.WRONG, f"{where}: failure_reason is {row['failure_reason']!r}")


def _as_landed(name: str, sent: Any) -> Any:
    if name in SHORTENED_URLS and sent:
        return urlsplit(sent)._replace(query="").geturl()
    if name == "webhookUrl" and sent:
        return urlsplit(sent)._replace(path="", query="").geturl()
    return sent


def _midnight_ms(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp() * 1000)


def check_videos(evidence: Evidence) -> Iterator[Finding]:
    """Find video files that are lost, doubled, not those that Akool serves, or not as the manifest says."""
    files: dict[str, list[Path]] = {}
    for file in sorted((evidence.tables / "videos").glob("*/[!.]*.mp4")):
        files.setdefault(file.stem, []).append(file)
    for job_id in evidence.completed - files.keys():
        yield Finding(Harm.LOST, f"{job_id} has no video file")
    for job_id, found in files.items():
        if len(found) > 1:
            yield Finding(Harm.DOUBLED, f"{job_id} has {len(found)} video files")
        if job_id not in evidence.completed:
            yield Finding(Harm.WRONG, f"{job_id} has a video file, but has not completed")
            continue
        served = evidence.video_of(job_id)
        for file in found:
            stored = file.read_bytes()
            if stored != served:
                harm = Harm.PARTIAL if len(stored) < len(served) else Harm.WRONG
                yield Finding(harm, f"{file.name} is not what Akool serves: {len(stored)} of {len(served)} bytes")
    for manifest in sorted((evidence.tables / "videos").glob("*.parquet")):
        for row in _readable_rows(manifest):
            yield from _check_manifest_row(evidence, manifest.stem, row)


def _check_manifest_row(evidence: Evidence, day: str, row: Row) -> Iterator[Finding]:
    job_id = row["_id"]
    if job_id not in evidence.completed:
        return
    served = evidence.video_of(job_id)
    wanted = {
        "video_state": "stored",
        "path": f"{evidence.tables.name}/videos/{day}/{job_id}.mp4",
        "bytes": len(served),
        "sha256": hashlib.sha256(served).hexdigest(),
        "reported_duration": evidence.truth[job_id]["video_duration"],
        "source_url": evidence.truth[job_id]["video_url"],
        "error": None,
    }
    for name, value in wanted.items():
        if row[name] != value:
            yield Finding(Harm.WRONG, f"{job_id} in videos: {name} is {row[name]!r}, not {value!r}")


def check_ledger(evidence: Evidence) -> Iterator[Finding]:
    """Find ids that the ledger lost, states that are not Akool's, and days that have not landed."""
    if (damage := evidence.ledger.damage()) is not None:
        yield Finding(Harm.WRONG, f"the ledger's database is damaged: {damage}")
    (counter,) = evidence.ledger.rows("SELECT ledger_id, version FROM akool_ledger")
    jobs = evidence.ledger.rows("SELECT * FROM akool_jobs")
    found = Counter(job["_id"] for job in jobs)
    for job_id in evidence.labels.keys() - found.keys():
        yield Finding(Harm.LOST, f"{job_id} was tracked, but the ledger does not know it")
    for job_id, rows in found.items():
        if rows > 1:
            yield Finding(Harm.DOUBLED, f"{job_id} is {rows} times in the ledger")
    for job in jobs:
        job_id = job["_id"]
        if job["state"] != evidence.state_of(job_id):
            yield Finding(Harm.WRONG, f"{job_id} is {job['state']} in the ledger, not {evidence.state_of(job_id)}")
        if job_id in evidence.completed and job["video_state"] != "stored":
            yield Finding(Harm.LOST, f"the video of {job_id} is {job['video_state']} ({job['video_error']})")
        if job["version"] > counter["version"]:
            yield Finding(Harm.WRONG, f"{job_id} has a version above the ledger's counter")
    landed = {
        (row["asset"], row["partition_at"]): row["version"]
        for row in evidence.ledger.rows("SELECT asset, partition_at, version FROM akool_landed")
    }
    asked: Counter[tuple[str, int]] = Counter()
    for hour in evidence.ledger.rows("SELECT hour_at, tables_version, videos_version FROM akool_hours"):
        day_ms = hour["hour_at"] - hour["hour_at"] % DAY_MS
        for table in TABLES:
            version = hour["videos_version" if table == "videos" else "tables_version"]
            asked[table, day_ms] = max(asked[table, day_ms], version)
    for (table, day_ms), version in asked.items():
        if landed.get((table, day_ms), 0) < version:
            day = datetime.fromtimestamp(day_ms / 1000, UTC).date()
            yield Finding(Harm.LOST, f"{table} of {day} landed at {landed.get((table, day_ms))}, not at {version}")


def check_event_log(evidence: Evidence) -> Iterator[Finding]:
    """Find files that the event log does not know of."""
    for table in TABLES:
        known = set(_materialised_days(evidence, table))
        for file in sorted((evidence.tables / table).glob("*.parquet")):
            if file.stem not in known:
                yield Finding(Harm.LOST, f"no materialisation of {table} of {file.stem} is in the event log")


def _materialised_days(evidence: Evidence, table: str) -> Iterator[str]:
    cursor: str | None = None
    while True:
        page = evidence.instance.fetch_materializations(
            dg.AssetRecordsFilter(dg.AssetKey([evidence.tables.name, table])), limit=500, cursor=cursor
        )
        yield from (str(record.partition_key) for record in page.records)
        if not page.has_more:
            return
        cursor = page.cursor


def check_files(evidence: Evidence) -> Iterator[Finding]:
    """Find visible files that are not whole or do not belong there, and temporary files that should be gone."""
    for file in sorted(path for path in evidence.tables.rglob("*") if path.is_file()):
        relative = file.relative_to(evidence.tables)
        if file.name.startswith(".") and file.suffix == ".lock":
            continue  # never removed: whoever removed it could let two runs write at once
        if file.name.startswith("."):
            age = _newest_landing(file) - file.stat().st_mtime
            if age > evidence.stale_seconds:
                yield Finding(Harm.PARTIAL, f"{relative} was {age:.0f} s old at the last landing beside it")
        elif file.suffix == ".parquet":
            try:
                read_rows(file)
            except (pa.ArrowException, OSError) as error:
                yield Finding(Harm.PARTIAL, f"{relative} is no whole Parquet file: {error}")
        elif file.suffix == ".mp4":
            continue  # check_videos compares it
        elif file.suffix == ".unverified" and not file.with_suffix(".mp4").exists():
            continue  # kept until a whole video is there
        elif str(relative) != "ledger.json" or not json.loads(file.read_text())["ledger"]:
            yield Finding(Harm.WRONG, f"{relative} does not belong there")


def _newest_landing(temporary: Path) -> float:
    beside = [path.stat().st_mtime for path in temporary.parent.iterdir() if not path.name.startswith(".")]
    return max(beside, default=time.time())


def check_secrets(evidence: Evidence) -> Iterator[Finding]:
    """Find secrets in any file of the home, packed values too, in any row of the ledger, and in requests to the CDN."""
    haystack = Haystack()
    for file in sorted(path for path in evidence.home.rglob("*") if path.is_file()):
        with suppress(pa.ArrowException, OSError):  # check_files names it
            haystack.add_file(str(file.relative_to(evidence.home)), file)
    for table in evidence.ledger.tables():
        haystack.add(f"the ledger's table {table}", repr(evidence.ledger.rows(f"SELECT * FROM {table}")))  # noqa: S608
    for name, secret in evidence.secrets.items():
        for _, place in haystack.find([secret]):
            yield Finding(Harm.SECRET, f"the {name} is in {place}")
    for request in evidence.journal:
        if request.endpoint == "cdn" and request.auth_headers:
            yield Finding(Harm.SECRET, f"{', '.join(request.auth_headers)} went to the CDN ({request.path})")


def check_journal(evidence: Evidence) -> Iterator[Finding]:
    """Find requests that do anything but read."""
    for request in evidence.journal:
        if (request.method, request.endpoint) not in READING:
            yield Finding(Harm.CALLED, f"{request.method} {request.path} was called")
