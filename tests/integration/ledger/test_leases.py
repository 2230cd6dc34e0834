"""Conformance: at most one run lands a partition, and a killed one frees it within a minute."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import NoReturn

import pytest

from akool_dagster.ledger import JobLedger, LeaseHeldError, LeaseLostError, LedgerUnavailableError
from akool_dagster.ledger.leases import Leases
from akool_dagster.ledger.records import LeaseFacts
from tests.clock import FakeClock
from tests.integration.ledger.helpers import ACCOUNT, DAY, NOW, SQLITE_ONLY

pytest_plugins = ["tests.integration.ledger_databases"]

KEY = ("tables", "2025-10-09")
LEASE = 60_000
PATIENCE_SECONDS = 10
"""How long a test waits for a thread that should answer at once."""


class SteppedClock(FakeClock):
    """A clock whose ``wait`` blocks its thread until the test has let the time pass."""

    def __init__(self) -> None:
        super().__init__()
        self._moved = threading.Condition()
        self._waits = 0
        self._waiting = False

    def wait(self, event: threading.Event, seconds: float) -> bool:
        end = self.monotonic() + seconds
        with self._moved:
            self._waits += 1
            self._waiting = True
            self._moved.notify_all()
            try:
                while not event.is_set() and self.monotonic() < end:
                    self._moved.wait(0.005)  # the event does not notify
            finally:
                self._waiting = False
        return event.is_set()

    def let_pass(self, seconds: float) -> None:
        """Let the wait end, and return once its thread has done what it does then: it waits again or is gone."""
        with self._moved:
            assert self._moved.wait_for(lambda: self._waiting, PATIENCE_SECONDS)
            waits = self._waits
            self.advance(seconds)
            self._moved.notify_all()
            for _ in range(PATIENCE_SECONDS * 100):  # a thread that ends does not notify
                if self._moved.wait_for(lambda: self._waits > waits or not renewing_threads(), 0.01):
                    return
            raise AssertionError("the wait did not end: too little time was let pass")


def renewing_threads() -> list[threading.Thread]:
    """Return the threads that renew leases now."""
    return [thread for thread in threading.enumerate() if thread.name == "akool-lease"]


@pytest.fixture
def stepped() -> Iterator[SteppedClock]:
    """Give a stepped clock; no renewing thread may be left behind."""
    yield SteppedClock()
    assert renewing_threads() == []


@pytest.fixture
def leases(ledger_url: str, stepped: SteppedClock) -> Iterator[Leases]:
    """Give the leases of an account that lives by the stepped clock."""
    with JobLedger.open(ledger_url, clock=stepped) as ledger:
        yield ledger.account(ACCOUNT).leases


def unavailable(*_: object) -> NoReturn:
    """Do as a database that is locked."""
    raise LedgerUnavailableError("the database is locked")


def test_a_lease_is_its_owners_until_it_runs_out_or_is_released(ledger: JobLedger, clock: FakeClock) -> None:
    leases = ledger.account(ACCOUNT).leases
    assert leases.take(*KEY, "one") is None
    assert leases.facts("tables") == {"2025-10-09": LeaseFacts(owner="one", expires_at=NOW + LEASE)}
    for free in (ledger.account("other").leases.take(*KEY, "two"), leases.take("videos", KEY[1], "two")):
        assert free is None
    clock.advance(59.999)
    assert leases.take(*KEY, "two") == leases.facts("tables")[KEY[1]]
    clock.advance(0.001)
    assert leases.take(*KEY, "two") is None
    assert not leases.renew(*KEY, "one")
    leases.release(*KEY, "one")
    assert leases.take(*KEY, "three") == LeaseFacts(owner="two", expires_at=NOW + 2 * LEASE)
    leases.release(*KEY, "two")
    facts = leases.facts("tables")[KEY[1]]
    assert (facts.owner, facts.was_released, facts.is_live(clock.now_ms())) == ("two", True, False)
    assert leases.take(*KEY, "three") is None


@pytest.mark.parametrize(("set_back_seconds", "free"), [(60, False), (60.001, True), (DAY / 1000, True)])
def test_a_lease_taken_under_a_wrong_clock_does_not_block_for_long(
    ledger: JobLedger, clock: FakeClock, set_back_seconds: float, free: bool
) -> None:
    leases = ledger.account(ACCOUNT).leases
    leases.take(*KEY, "one")
    clock.jump(-set_back_seconds)
    assert leases.facts("tables")["2025-10-09"].is_live(clock.now_ms()) is not free
    assert (leases.take(*KEY, "two") is None) is free


@SQLITE_ONLY
def test_a_held_lease_is_renewed_until_the_block_ends(leases: Leases, stepped: SteppedClock) -> None:
    with leases.acquire(*KEY, "one") as lease:
        for _ in range(12):
            stepped.let_pass(10)
            lease.check()
        assert leases.facts("tables")["2025-10-09"] == LeaseFacts(owner="one", expires_at=stepped.now_ms() + LEASE)
        assert leases.take(*KEY, "two") is not None
    assert leases.take(*KEY, "two") is None
    lease.release()  # a second time: nobody else's
    assert leases.facts("tables")["2025-10-09"].owner == "two"


@SQLITE_ONLY
def test_a_lease_that_nothing_asks_about_any_more_runs_out(
    leases: Leases, stepped: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akool_dagster.ledger.leases.IDLE_SECONDS", 100.0)
    with leases.acquire(*KEY, "abandoned") as lease:
        for _ in range(10):
            stepped.let_pass(10)
        stepped.advance(60)
        assert leases.take(*KEY, "two") is None
        with pytest.raises(LeaseLostError):
            lease.check()


@SQLITE_ONLY
def test_a_ledger_that_cannot_release_the_lease_hides_no_error_of_the_block(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leases, "release", unavailable)
    with pytest.raises(ZeroDivisionError), leases.acquire(*KEY, "one"):
        raise ZeroDivisionError
    with leases.acquire(*KEY, "one") as lease:
        lease.check()


@SQLITE_ONLY
def test_a_run_waits_for_a_killed_one_to_run_out(leases: Leases, stepped: SteppedClock) -> None:
    leases.take(*KEY, "killed")
    with leases.acquire(*KEY, "two") as lease:
        lease.check()
        assert leases.facts("tables")["2025-10-09"].owner == "two"
    assert stepped.monotonic() == 60


@SQLITE_ONLY
def test_waiting_for_a_run_that_goes_on_is_bounded_and_names_it(
    leases: Leases, stepped: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases.take(*KEY, "the-other-run")

    def sleep_while_it_goes_on(seconds: float) -> None:
        stepped.advance(seconds)
        leases.renew(*KEY, "the-other-run")

    monkeypatch.setattr(stepped, "sleep", sleep_while_it_goes_on)
    with pytest.raises(LeaseHeldError, match=r"the-other-run.*tables of 2025-10-09"):
        leases.acquire(*KEY, "two")
    assert 75 <= stepped.monotonic() <= 80


@SQLITE_ONLY
@pytest.mark.parametrize("late", [False, True], ids=["released", "run out while the machine was suspended"])
def test_a_lease_that_another_took_is_lost_at_the_next_renewal(
    leases: Leases, stepped: SteppedClock, late: bool
) -> None:
    with leases.acquire(*KEY, "one") as lease:
        if late:
            stepped.jump(61)  # wall time went on, the thread did not
            with pytest.raises(LeaseLostError):
                lease.check()
        else:
            leases.release(*KEY, "one")
        assert leases.take(*KEY, "two") is None
        stepped.let_pass(10)
        with pytest.raises(LeaseLostError, match="tables of 2025-10-09"):
            lease.check()
    assert leases.facts("tables")["2025-10-09"].owner == "two"


@SQLITE_ONLY
def test_a_lease_that_cannot_be_renewed_is_lost_when_it_runs_out_and_not_before(
    leases: Leases, stepped: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leases.acquire(*KEY, "one") as lease:
        with monkeypatch.context() as patched:
            patched.setattr(Leases, "renew", unavailable)
            for _ in range(5):
                stepped.let_pass(10)
            stepped.advance(9.999)
            lease.check()
            stepped.let_pass(0.001)
            with pytest.raises(LeaseLostError):
                lease.check()
        stepped.let_pass(10)
        lease.check()  # nobody took it meanwhile, and the ledger is there again
