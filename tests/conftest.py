"""Fixtures for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from akool_dagster.emulator import AkoolEmulator
from tests.deployment import Deployment, quiet_instance

# A busy machine must not fail a property; how long one takes is for the benchmarks.
settings.register_profile("akool", deadline=None)
settings.load_profile("akool")


@pytest.fixture
def emulator() -> Iterator[AkoolEmulator]:
    with AkoolEmulator() as emulator:
        yield emulator


@pytest.fixture
def deployment(tmp_path: Path, emulator: AkoolEmulator) -> Iterator[Deployment]:
    with quiet_instance(tmp_path / "dagster") as instance:
        yield Deployment(tmp_path, emulator, instance)
