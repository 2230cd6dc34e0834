"""Conformance: what transactions that overlap do to each other. One is held open while the other goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from akool_dagster.ledger import (
    AccountLedger,
    GranularityError,
    Job,
    LeaseLostError,
    LedgerUnavailableError,
    RecordReport,
    TrackReport,
)
from akool_dagster.ledger.adoption import FoundJob
from akool_dagster.ledger.records import LeaseFacts
from akool_dagster.ledger.rows import locked_jobs, new_job_row
from tests.clock import FakeClock
from tests.integration.ledger.helpers import (
    ACCOUNT,
    DAY,
    HOUR,
    NOW,
    THIS_HOUR,
    WRITES,
    Work,
    answered,
    claimed_ids,
    complete,
    dirty_hours,
    job_of,
    record,
    rows_of,
    track,
)
from tests.integration.ledger.sides import LONGEST_SECONDS, Side, held_before, uncommitted, wait_until_waiting

pytest_plugins = ["tests.integration.ledger_databases"]

LEASE = ("tables", "2025-10-09")
LEASE_MS = 60_000

_Result = TypeVar("_Result")


def at_once(work: Callable[[int], _Result], threads: int = 4) -> Sequence[_Result]:
    """Do the work in several threads that start together, and return their results."""
    start = threading.Barrier(threads, timeout=LONGEST_SECONDS)

    def one(number: int) -> _Result:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads), timeout=LONGEST_SECONDS))


def test_no_version_is_seen_before_a_lower_one(one: Side, other: Side, threads: ThreadPoolExecutor) -> None:
    track(one.account, "a", "b")
    (before,) = {job.version for job in one.account.jobs()}
    with uncommitted(one, lambda: record(one.account, answered("a", 4))):
        second = threads.submit(record, other.account, answered("b", 4))
        wait_until_waiting(one)
        assert not second.done()
        assert {job.version for job in one.account.jobs()} == {before}
        assert rows_of(one.account, 0, 2**62, "version", "state") == [(before, "pending")] * 2
        assert dirty_hours(one.account) == {}
    assert second.result(LONGEST_SECONDS).failed == 1
    assert before < job_of(one.account, "a").version < job_of(one.account, "b").version


def test_what_is_committed_while_a_count_is_taken_stays_out_of_it(one: Side, other: Side) -> None:
    track(one.account, "a")
    with held_before(other, "SELECT min(", other.account.counts) as counting:
        complete(one.account, "a")
        track(one.account, "b", "c")
    counts = counting.result()
    assert (counts.states, counts.due, counts.oldest_pending_ms) == ({"pending": 1}, 1, 0)


def test_overlapping_claims_take_different_ids(one: Side, other: Side, threads: ThreadPoolExecutor) -> None:
    track(one.account, "a", "b", "c", "d")
    with uncommitted(one, lambda: claimed_ids(one.account, 2)) as first:
        second = threads.submit(claimed_ids, other.account, 2)
        if not one.is_sqlite:  # which has one writer at a time
            assert second.result(LONGEST_SECONDS) == ["c", "d"]  # without waiting for the first
    assert (first.result(), second.result(LONGEST_SECONDS)) == (["a", "b"], ["c", "d"])


@pytest.mark.parametrize("how", ["tracked", "forgotten", "adopted"])
def test_ids_that_become_known_while_they_are_tracked_are_added_once(
    one: Side, other: Side, threads: ThreadPoolExecutor, how: str
) -> None:
    told = Job(**new_job_row(ACCOUNT, "b", {"one": "1"}, NOW, 0))
    works: dict[str, Callable[[], object]] = {
        "tracked": lambda: track(one.account, "b", labels={"one": "1"}),
        "forgotten": lambda: one.account.pruning.forget(["b"]),
        "adopted": lambda: one.account.adoption.adopt([FoundJob(job=told, start=NOW, end=NOW + DAY)]),
    }
    with uncommitted(one, works[how]) as first:
        second = threads.submit(track, other.account, "b", "c", labels={"other": "2"})
        wait_until_waiting(one)
    assert first.exception() is None
    forgotten = int(how == "forgotten")
    expected = TrackReport(added=1, known=1, relabelled=1 - forgotten, forgotten=forgotten)
    assert second.result(LONGEST_SECONDS) == expected
    assert {job.job_id: json.loads(job.labels) for job in one.account.jobs()} == {
        "b": {} if forgotten else {"one": "1", "other": "2"},
        "c": {"other": "2"},
    }


def test_an_answer_that_waited_for_another_is_compared_with_what_that_one_left(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    track(one.account, "a")
    with uncommitted(one, lambda: record(one.account, answered("a", 3))):
        second = threads.submit(record, other.account, answered("a", 4))
        wait_until_waiting(one)
    assert second.result(LONGEST_SECONDS) == RecordReport()
    assert job_of(one.account, "a").state == "completed"


@pytest.mark.parametrize("took_it", [True, False])
def test_a_lease_wanted_by_two_at_once_goes_to_one(
    one: Side, other: Side, threads: ThreadPoolExecutor, clock: FakeClock, took_it: bool
) -> None:
    other.account.leases.take(*LEASE, "other")
    clock.advance(60)
    begin = one.account.leases.take if took_it else one.account.leases.renew
    with uncommitted(one, lambda: begin(*LEASE, "one" if took_it else "other")) as first:
        second = threads.submit(other.account.leases.take, *LEASE, "third")
        wait_until_waiting(one)
    assert first.result() in (None, True)
    holder = LeaseFacts(owner="one" if took_it else "other", expires_at=NOW + 2 * LEASE_MS)
    assert second.result(LONGEST_SECONDS) == holder
    assert one.account.leases.facts("tables") == {"2025-10-09": holder}


def test_a_landing_that_waits_for_its_lease_to_pass_on_is_not_recorded(
    one: Side, other: Side, threads: ThreadPoolExecutor, clock: FakeClock
) -> None:
    one.account.leases.take(*LEASE, "one")
    clock.advance(60)
    with uncommitted(other, lambda: other.account.leases.take(*LEASE, "other")):
        landing = threads.submit(one.account.landings.record_landed, *LEASE, "one", THIS_HOUR, "results", 5)
        wait_until_waiting(one)
    assert isinstance(landing.exception(LONGEST_SECONDS), LeaseLostError)
    assert one.account.landings.landed(0) == {}


def test_an_adoption_waits_for_a_landing_and_sets_its_version_to_zero(
    one: Side, other: Side, threads: ThreadPoolExecutor
) -> None:
    one.account.leases.take(*LEASE, "run")

    def land(version: int) -> None:
        one.account.landings.record_landed(*LEASE, "run", THIS_HOUR, "results", version)

    land(4)
    with held_before(one, "INSERT INTO akool_landed", lambda: land(5)) as landing:  # it has locked the lease
        adopting = threads.submit(other.account.adoption.land_everything_again)
        wait_until_waiting(one)
    assert (landing.exception(), adopting.exception(LONGEST_SECONDS)) == (None, None)
    assert one.account.landings.landed(0) == {(THIS_HOUR, "results"): 0}
    with pytest.raises(LeaseLostError):
        land(6)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_waiting_for_a_job_that_another_has_locked_is_bounded_and_leaves_nothing_half_written(
    four: Side, impatient: Side, write: Work
) -> None:
    before = list(four.account.jobs())
    with four.database.write() as connection:
        assert len(locked_jobs(connection, ACCOUNT, ["a", "b", "c", "d"])) == 4
        with pytest.raises(LedgerUnavailableError, match=r"cannot be used now: .*(locked|lock timeout)"):
            write(impatient.account)
    assert list(four.account.jobs()) == before
    write(impatient.account)


def test_clamping_the_schedule_does_not_wait_for_what_is_being_recorded(
    one: Side, impatient: Side, clock: FakeClock
) -> None:
    clock.jump(86_400)
    track(one.account, "a", "b")
    clock.jump(-86_400)
    with uncommitted(one, lambda: record(one.account, answered("a", 1))):
        if one.is_sqlite:
            with pytest.raises(LedgerUnavailableError):
                impatient.account.polling.clamp_future_schedule()
        else:
            impatient.account.polling.clamp_future_schedule()
            assert claimed_ids(impatient.account) == ["b"]
    impatient.account.polling.clamp_future_schedule()
    assert "a" not in claimed_ids(impatient.account)  # its answer gave it a time


def test_two_first_ticks_settle_one_granularity(one: Side, other: Side) -> None:
    def settling() -> None:
        one.account.landings.settle_granularity("daily")

    if one.is_sqlite:
        other.account.landings.settle_granularity("hourly")
        with pytest.raises(GranularityError):
            settling()
    else:
        with held_before(one, "INSERT INTO akool_accounts", settling) as settled:
            other.account.landings.settle_granularity("hourly")
        assert isinstance(settled.exception(LONGEST_SECONDS), GranularityError)
    assert one.account.landings.granularity() == "hourly"


def test_starts_noted_at_once_leave_the_slowest(one: Side, other: Side, threads: ThreadPoolExecutor) -> None:
    with uncommitted(one, lambda: one.account.landings.note_start(9_000)):
        quick = threads.submit(other.account.landings.note_start, 40)
        wait_until_waiting(one)
    assert quick.exception(LONGEST_SECONDS) is None
    assert one.account.landings.slowest_start_ms() == 9_000


def test_outcomes_recorded_by_many_threads_of_one_ledger_all_count(account: AccountLedger) -> None:
    ids = [f"{number:02}" for number in range(40)]
    complete(account, *ids)

    def store(number: int) -> None:
        for job_id in ids[number::4]:
            account.videos.store(job_id, {"path": job_id})

    at_once(store)
    assert account.counts().videos == {"stored": 40}
    versions = [job.version for job in account.jobs()]
    assert len(set(versions)) == 40
    assert dirty_hours(account)[THIS_HOUR][1] == max(versions)


def test_a_pool_without_a_free_connection_is_waited_for_no_longer_than_for_a_lock(impatient: Side) -> None:
    with ExitStack() as stack, pytest.raises(LedgerUnavailableError, match="every connection in use"):
        for _ in range(100):
            stack.enter_context(impatient.database.read())
    assert impatient.account.counts(0, NOW + HOUR).pending == 0


def test_a_call_is_recorded_in_a_fixed_number_of_statements(one: Side) -> None:
    ids = [f"{number:03}" for number in range(400)]
    track(one.account, *ids)

    def statements(work: Callable[[], object]) -> list[str]:
        seen: list[str] = []

        def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "set_config" not in statement and not statement.startswith("BEGIN"):
                seen.append(" ".join(statement.split()[:3]))

        sa.event.listen(one.database.engine, "before_cursor_execute", note)
        work()
        sa.event.remove(one.database.engine, "before_cursor_execute", note)
        return [statement.partition(" SET")[0] for statement in seen]

    mixed = [
        "SELECT akool_jobs._id, akool_jobs.partition_at,",
        "UPDATE akool_ledger",
        "UPDATE akool_jobs",
        "UPDATE akool_jobs",
        "INSERT INTO akool_hours",
    ]
    assert [len(statements(lambda limit=limit: claimed_ids(one.account, limit))) for limit in (1, 50)] == [2, 2]  # type: ignore[misc]
    for number in (4, 40, 100):
        call = [answered(job_id, 3 + place % 2) for place, job_id in enumerate(ids[:number])]
        call[0] = answered(call[0].job_id, 2)
        assert statements(lambda call=call: record(one.account, *call)) == mixed  # type: ignore[misc]
        ids = ids[number:]
    assert len(statements(lambda: record(one.account, *(answered(job_id, None) for job_id in ids)))) == 2
