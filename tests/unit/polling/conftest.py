from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from akool_dagster.ledger import JobLedger
from tests.clock import FakeClock
from tests.unit.polling.helpers import ACCOUNT, Passes


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        yield ledger


@pytest.fixture
def passes(ledger: JobLedger, clock: FakeClock) -> Passes:
    return Passes(ledger.account(ACCOUNT), clock)
