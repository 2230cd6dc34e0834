"""Conformance: at most one run lands a partition, and a killed one frees it within a minute."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from akool_dagster.ledger import JobLedger, LeaseHeldError, LeaseLostError, LedgerUnavailableError
from akool_dagster.ledger.leases import Leases
from akool_dagster.ledger.records import LeaseFacts
from tests.clock import FakeClock
from tests.integration.ledger.helpers import ACCOUNT, DAY, NOW

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
def stepped(ledger_url: str) -> Iterator[tuple[JobLedger, SteppedClock]]:
    """Give a ledger and its stepped clock; no renewing thread may be left behind."""
    clock = SteppedClock()
    with JobLedger.create(ledger_url, clock=clock) as ledger:
        yield ledger, clock
    assert renewing_threads() == []


@pytest.fixture
def leases(ledger: JobLedger) -> Leases:
    """Give the leases of the account."""
    return ledger.account(ACCOUNT).leases


def test_a_free_lease_is_taken_and_everyone_sees_whose_it_is(leases: Leases) -> None:
    assert leases.facts("tables") == {}
    assert leases.take(*KEY, "one") is None
    assert leases.facts("tables") == {"2025-10-09": LeaseFacts(owner="one", expires_at=NOW + LEASE)}


def test_leases_of_other_partitions_kinds_and_accounts_are_free(ledger: JobLedger, leases: Leases) -> None:
    leases.take(*KEY, "one")
    assert leases.take("tables", "2025-10-10", "two") is None
    assert leases.take("videos", "2025-10-09", "two") is None
    assert ledger.account("other").leases.take(*KEY, "two") is None
    assert {key: facts.owner for key, facts in leases.facts("tables").items()} == {
        "2025-10-09": "one",
        "2025-10-10": "two",
    }


def test_a_lease_runs_out_after_a_minute(leases: Leases, clock: FakeClock) -> None:
    leases.take(*KEY, "one")
    clock.advance(59.999)
    assert leases.take(*KEY, "two") is not None
    assert leases.facts("tables")["2025-10-09"].is_live(clock.now_ms())
    clock.advance(0.001)
    assert not leases.facts("tables")["2025-10-09"].is_live(clock.now_ms())
    assert leases.take(*KEY, "two") is None


def test_a_lease_that_another_took_cannot_be_renewed_or_released(leases: Leases, clock: FakeClock) -> None:
    leases.take(*KEY, "one")
    clock.advance(60)
    leases.take(*KEY, "two")
    assert not leases.renew(*KEY, "one")
    leases.release(*KEY, "one")
    assert leases.take(*KEY, "three") == LeaseFacts(owner="two", expires_at=NOW + 2 * LEASE)


def test_a_released_lease_is_free_at_once_and_its_last_holder_stays_known(leases: Leases, clock: FakeClock) -> None:
    leases.take(*KEY, "one")
    leases.release(*KEY, "one")
    facts = leases.facts("tables")["2025-10-09"]
    assert (facts.owner, facts.is_live(clock.now_ms())) == ("one", False)
    assert leases.take(*KEY, "two") is None


@pytest.mark.parametrize(("set_back_seconds", "free"), [(60, False), (60.001, True), (DAY / 1000, True)])
def test_a_lease_taken_under_a_wrong_clock_does_not_block_for_long(
    leases: Leases, clock: FakeClock, set_back_seconds: float, free: bool
) -> None:
    leases.take(*KEY, "one")
    clock.jump(-set_back_seconds)
    assert leases.facts("tables")["2025-10-09"].is_live(clock.now_ms()) is not free
    assert (leases.take(*KEY, "two") is None) is free


def test_a_held_lease_is_renewed_until_the_block_ends(stepped: tuple[JobLedger, SteppedClock]) -> None:
    ledger, clock = stepped
    leases = ledger.account(ACCOUNT).leases
    with leases.acquire(*KEY, "one") as lease:
        for _ in range(12):
            clock.let_pass(10)
            lease.check()
        assert leases.facts("tables")["2025-10-09"] == LeaseFacts(owner="one", expires_at=clock.now_ms() + LEASE)
        assert leases.take(*KEY, "two") is not None
    assert leases.take(*KEY, "two") is None
    lease.release()  # a second time: nobody else's
    assert leases.facts("tables")["2025-10-09"].owner == "two"


def test_a_lease_that_nothing_asks_about_any_more_runs_out(
    stepped: tuple[JobLedger, SteppedClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akool_dagster.ledger.leases.IDLE_SECONDS", 100.0)
    ledger, clock = stepped
    leases = ledger.account(ACCOUNT).leases
    with leases.acquire(*KEY, "abandoned") as lease:
        for _ in range(10):
            clock.let_pass(10)
        clock.advance(60)
        assert leases.take(*KEY, "two") is None
        with pytest.raises(LeaseLostError):
            lease.check()


def test_a_block_that_raises_is_not_hidden_by_a_ledger_that_cannot_free_it(
    stepped: tuple[JobLedger, SteppedClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, _ = stepped

    def fail(*_: object) -> None:
        raise LedgerUnavailableError("the database is locked")

    monkeypatch.setattr(Leases, "release", fail)
    with pytest.raises(ZeroDivisionError), ledger.account(ACCOUNT).leases.acquire(*KEY, "one"):
        raise ZeroDivisionError
    with ledger.account(ACCOUNT).leases.acquire(*KEY, "one") as lease:
        lease.check()


def test_a_run_waits_for_a_killed_one_to_run_out(stepped: tuple[JobLedger, SteppedClock]) -> None:
    ledger, clock = stepped
    ledger.account(ACCOUNT).leases.take(*KEY, "killed")
    with ledger.account(ACCOUNT).leases.acquire(*KEY, "two") as lease:
        lease.check()
        assert ledger.account(ACCOUNT).leases.facts("tables")["2025-10-09"].owner == "two"
    assert clock.monotonic() == 60


def test_waiting_for_a_run_that_goes_on_is_bounded_and_names_it(stepped: tuple[JobLedger, SteppedClock]) -> None:
    ledger, clock = stepped
    leases = ledger.account(ACCOUNT).leases
    leases.take(*KEY, "the-other-run")
    sleep = clock.sleep

    def sleep_while_it_goes_on(seconds: float) -> None:
        sleep(seconds)
        leases.renew(*KEY, "the-other-run")

    clock.sleep = sleep_while_it_goes_on  # type: ignore[method-assign]
    with pytest.raises(LeaseHeldError, match=r"the-other-run.*tables of 2025-10-09"), leases.acquire(*KEY, "two"):
        raise AssertionError("entered")
    assert 75 <= clock.monotonic() <= 80


def test_a_stolen_lease_is_lost_at_the_next_renewal(stepped: tuple[JobLedger, SteppedClock]) -> None:
    ledger, clock = stepped
    leases = ledger.account(ACCOUNT).leases
    with leases.acquire(*KEY, "one") as lease:
        leases.release(*KEY, "one")
        leases.take(*KEY, "two")
        lease.check()
        clock.let_pass(10)
        with pytest.raises(LeaseLostError, match="tables of 2025-10-09"):
            lease.check()
    assert leases.facts("tables")["2025-10-09"].owner == "two"
    assert leases.take(*KEY, "three") is not None


def test_a_lease_that_cannot_be_renewed_is_lost_when_it_runs_out_and_not_before(
    stepped: tuple[JobLedger, SteppedClock], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, clock = stepped

    def fail(*_: object) -> bool:
        raise LedgerUnavailableError("the database is locked")

    with ledger.account(ACCOUNT).leases.acquire(*KEY, "one") as lease:
        with monkeypatch.context() as patched:
            patched.setattr(Leases, "renew", fail)
            for _ in range(5):
                clock.let_pass(10)
            clock.advance(9.999)
            lease.check()
            clock.let_pass(0.001)
            with pytest.raises(LeaseLostError):
                lease.check()
        clock.let_pass(10)
        lease.check()  # nobody took it meanwhile, and the ledger is there again


def test_a_renewal_that_comes_too_late_does_not_take_the_lease_back(stepped: tuple[JobLedger, SteppedClock]) -> None:
    ledger, clock = stepped
    leases = ledger.account(ACCOUNT).leases
    with leases.acquire(*KEY, "one") as lease:
        clock.jump(61)  # a suspended machine: wall time went on, the thread did not
        with pytest.raises(LeaseLostError):
            lease.check()
        assert leases.take(*KEY, "two") is None
        clock.let_pass(10)
        with pytest.raises(LeaseLostError):
            lease.check()
    assert leases.facts("tables")["2025-10-09"].owner == "two"
