"""Fixtures of poll passes against the emulator. A module says in ``JOBS`` which jobs there are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from akool_dagster.api import AkoolClient
from akool_dagster.emulator import AkoolEmulator
from akool_dagster.ledger import JobLedger, TrackRequest
from tests.clock import FakeClock
from tests.ticks import ACCOUNT, new_client


@pytest.fixture
def emulator(request: pytest.FixtureRequest, clock: FakeClock) -> Iterator[AkoolEmulator]:
    with AkoolEmulator(jobs=request.module.JOBS, clock=clock) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def tracked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger that tracks all jobs. It is made once, for migrations take long, and copied."""
    path = tmp_path_factory.mktemp("tracked") / "ledger.sqlite"
    with JobLedger.create(f"sqlite:///{path}", clock=FakeClock()) as ledger:
        ledger.account(ACCOUNT).track([TrackRequest(job_id=job.job_id) for job in request.module.JOBS])
    return path


@pytest.fixture
def ledger(tracked: Path, tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    path = shutil.copy(tracked, tmp_path / "ledger.sqlite")
    with JobLedger.open(f"sqlite:///{path}", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def client(emulator: AkoolEmulator, clock: FakeClock) -> Iterator[AkoolClient]:
    with new_client(emulator, clock) as client:
        yield client
