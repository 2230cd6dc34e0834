"""The fixture ``land``, a landing of videos from an emulator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from akool_dagster.emulator import AkoolEmulator
from akool_dagster.ledger import JobLedger
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.integration.videos.landings import FAILED_JOB, JOBS, PRIVATE_JOB, Landing


@pytest.fixture(scope="session")
def video_emulator() -> Iterator[AkoolEmulator]:
    # The same jobs and bytes for every test: rendering them is most of the time.
    with AkoolEmulator(jobs=[*JOBS, FAILED_JOB, PRIVATE_JOB], clock=FakeClock()) as emulator:
        yield emulator


@pytest.fixture
def land(video_emulator: AkoolEmulator, tmp_path: Path) -> Iterator[Landing]:
    video_emulator.faults.clear()
    video_emulator.journal.clear()
    clock = FakeClock()
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        yield Landing(ledger.account("akool"), video_emulator, clock, StorageRoot(str(tmp_path / "root")))
    assert not any(thread.name.startswith("akool-video") for thread in threading.enumerate())
