from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from akool_dagster import TABLES, JobLedger, TrackRequest
from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from tests.deployment import object_id
from tests.e2e.daemon import Daemon, wait_for

API_KEY = "MARKED-SECRET-e2e-0815"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes to kill in /proc")


@pytest.fixture
def jobs() -> list[EmulatedJob]:
    """Ten jobs of two days: two failed, some seen in every state, all moved by polls."""
    now = int(time.time())
    return [
        EmulatedJob(
            job_id=object_id(now - 86_400 * (1 + index % 2) - index, index),
            queue_polls=index % 2,
            processing_polls=index % 3,
            outcome="failed" if index in (3, 4) else "completed",
            video_duration=1.0 + index / 10,
        )
        for index in range(10)
    ]


@pytest.fixture
def emulator(jobs: list[EmulatedJob]) -> Iterator[AkoolEmulator]:
    with AkoolEmulator(api_key=API_KEY, jobs=jobs) as emulator:
        yield emulator


@pytest.fixture
def daemon(tmp_path: Path, emulator: AkoolEmulator) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "home", emulator.base_url, API_KEY)
    yield daemon
    daemon.kill_everything()


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    return [row for file in sorted((root / table).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_daemon_killed_in_the_middle_lands_everything_once_it_is_back(
    daemon: Daemon, emulator: AkoolEmulator, jobs: list[EmulatedJob]
) -> None:
    root = daemon.home / "akool" / "akool"
    with JobLedger.create(f"sqlite:///{daemon.home}/akool/ledger.sqlite") as ledger:
        ledger.track("akool", [TrackRequest(job_id=job.job_id) for job in jobs])
        completed = {job.job_id for job in jobs if job.outcome == "completed"}

        def everything_landed() -> bool:
            counts = ledger.counts("akool")
            return (
                counts.pending == 0
                and counts.videos == {"stored": len(completed)}
                and all(len(rows(root, name)) == len(jobs) for name in ("results", "credits", "durations", "statuses"))
                and sum(row["video_state"] == "stored" for row in rows(root, "videos")) == len(completed)
            )

        daemon.start()
        wait_for(lambda: any(root.rglob("*.mp4")) or any(root.rglob("*.parquet")), 90, daemon)
        assert daemon.kill_everything() >= 2
        daemon.start()
        wait_for(everything_landed, 180, daemon)
    assert daemon.kill_everything() >= 2

    for name in TABLES:
        ids = [row["_id"] for row in rows(root, name)]
        expected = completed if name == "videos" else {job.job_id for job in jobs}
        assert sorted(ids) == sorted(expected), name
    for job_id in completed:
        (video,) = (root / "videos").glob(f"*/{job_id}.mp4")
        assert video.read_bytes() == emulator.video_bytes(job_id)
    visible = {path.suffix for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert visible == {".parquet", ".mp4", ".json"}

    everything = [path for path in daemon.home.rglob("*") if path.is_file()]
    assert len(everything) > 20
    assert [path for path in everything if API_KEY.encode() in path.read_bytes()] == []
    assert not any(request.auth_headers for request in emulator.journal.calls("cdn"))
