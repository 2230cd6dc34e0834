"""Fixtures of the videos' tests: a scripted server with a fetch from it, and an emulator with landings from it."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from akool_dagster.emulator import AkoolEmulator
from akool_dagster.ledger import JobLedger
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.integration.videos.helpers import Fetch
from tests.integration.videos.landings import FAILED_JOB, JOBS, PRIVATE_JOB, Landing
from tests.video_server import VideoServer


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with VideoServer() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"))


@pytest.fixture
def fetch(server: VideoServer, root: StorageRoot) -> Fetch:
    return Fetch(server, root)


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a ledger to copy: making its tables would take most of a test's time."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    with JobLedger.create(f"sqlite:///{path}", clock=FakeClock()):
        return path


@pytest.fixture
def ledger(empty_ledger: Path, tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    shutil.copyfile(empty_ledger, tmp_path / "ledger.sqlite")
    with JobLedger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        yield ledger


@pytest.fixture(scope="session")
def video_emulator() -> Iterator[AkoolEmulator]:
    # The same jobs and bytes for every test: rendering them is most of the time.
    with AkoolEmulator(jobs=[*JOBS, FAILED_JOB, PRIVATE_JOB], clock=FakeClock()) as emulator:
        yield emulator


@pytest.fixture
def land(video_emulator: AkoolEmulator, ledger: JobLedger, clock: FakeClock, root: StorageRoot) -> Iterator[Landing]:
    video_emulator.faults.clear()
    video_emulator.journal.clear()
    yield Landing(ledger.account("akool"), video_emulator, clock, root)
    assert not any(thread.name.startswith("akool-video") for thread in threading.enumerate())
