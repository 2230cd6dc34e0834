"""Fixtures of the ledger's tests: one account, and processes at the same ledger."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from akool_dagster.ledger import AccountLedger, JobLedger
from tests.clock import FakeClock
from tests.integration.ledger.helpers import ACCOUNT, complete, track
from tests.integration.ledger.sides import IMPATIENT_SECONDS, Side, side


@pytest.fixture
def account(ledger: JobLedger) -> AccountLedger:
    """Give an account of a new ledger."""
    return ledger.account(ACCOUNT)


@pytest.fixture
def one(ledger: JobLedger, ledger_url: str, clock: FakeClock) -> Iterator[Side]:
    """Give a process at the ledger."""
    with side(ledger_url, clock=clock) as one:
        yield one


@pytest.fixture
def other(ledger: JobLedger, ledger_url: str, clock: FakeClock) -> Iterator[Side]:
    """Give another process at the same ledger."""
    with side(ledger_url, clock=clock) as other:
        yield other


@pytest.fixture
def impatient(ledger: JobLedger, ledger_url: str, clock: FakeClock) -> Iterator[Side]:
    """Give a process that fails rather than wait for a lock."""
    with side(ledger_url, clock=clock, busy_timeout=IMPATIENT_SECONDS) as impatient:
        yield impatient


@pytest.fixture
def four(one: Side) -> Side:
    """Give a process at a ledger with jobs in an order on disk that is not that of their ids."""
    complete(one.account, "d")
    one.account.videos.store("d", {})
    complete(one.account, "c")
    track(one.account, "b")
    track(one.account, "a")
    return one
