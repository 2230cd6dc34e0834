"""Conformance: several passes, commands and runs at once on one ledger. Every thread has its own connection."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from akool_dagster.ledger import JobLedger, TrackReport
from akool_dagster.ledger.records import LeaseFacts
from tests.clock import FakeClock
from tests.integration.ledger_words import ACCOUNT, HOUR, NOW, answered, claimed_ids, complete, nth, record, track

pytest_plugins = ["tests.integration.ledger_databases"]

LONGEST_SECONDS = 30
"""After this a test fails instead of hanging."""

_Result = TypeVar("_Result")


def at_once(work: Callable[[int], _Result], threads: int = 4) -> Sequence[_Result]:
    """Do the work in several threads that start together, and return their results."""
    start = threading.Barrier(threads, timeout=LONGEST_SECONDS)

    def one(number: int) -> _Result:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads), timeout=LONGEST_SECONDS))


def test_no_id_is_claimed_by_two_passes(ledger: JobLedger, ledger_url: str) -> None:
    ids = [f"{number:04}" for number in range(300)]
    track(ledger, *ids)

    def claim_all(_: int) -> list[str]:
        mine: list[str] = []
        with JobLedger.open(ledger_url, clock=FakeClock()) as own:
            # On PostgreSQL an empty claim can mean that another pass holds the rows at this moment.
            while claimed := claimed_ids(own, 7):
                mine += claimed
        return mine

    claimed = [job_id for mine in at_once(claim_all) for job_id in mine] + claimed_ids(ledger, 300)
    assert sorted(claimed) == ids


def test_the_same_new_ids_are_added_once_and_keep_the_labels_of_everyone(ledger: JobLedger, ledger_url: str) -> None:
    ids = [f"{number:04}" for number in range(50)]

    def track_all(number: int) -> TrackReport:
        with JobLedger.open(ledger_url, clock=FakeClock()) as own:
            return track(own, *ids, labels={f"by{number}": "yes"})

    reports = at_once(track_all)
    assert sum(report.added for report in reports) == 50
    assert sum(report.known for report in reports) == 150
    assert [job.job_id for job in ledger.iter_jobs(ACCOUNT)] == ids
    everyone = {f"by{number}": "yes" for number in range(4)}
    assert all(json.loads(job.labels) == everyone for job in ledger.iter_jobs(ACCOUNT))


def test_a_ledger_created_by_many_at_once_has_one_id(ledger_url: str) -> None:
    def create(_: int) -> str:
        with JobLedger.create(ledger_url) as own:
            return own.ledger_id

    assert len(set(at_once(create, threads=6))) == 1


def test_creating_a_ledger_again_keeps_its_id_and_jobs(ledger: JobLedger, ledger_url: str) -> None:
    complete(ledger, "a")
    with JobLedger.create(ledger_url) as again:
        assert again.ledger_id == ledger.ledger_id
        assert (again.revision(), [job.job_id for job in again.iter_jobs(ACCOUNT)]) == (nth(2), ["a"])


def test_every_change_takes_a_revision_of_its_own(ledger: JobLedger, ledger_url: str) -> None:
    ids = [f"{number:02}" for number in range(40)]
    track(ledger, *ids)

    def fail_a_quarter(number: int) -> None:
        with JobLedger.open(ledger_url, clock=FakeClock()) as own:
            for job_id in ids[number::4]:
                record(own, answered(job_id, 4))

    at_once(fail_a_quarter)
    assert sorted(job.revision for job in ledger.iter_jobs(ACCOUNT)) == [nth(number) for number in range(2, 42)]
    assert [hour.head for hour in ledger.heads(ACCOUNT)] == [nth(41)]


def test_a_snapshot_never_shows_half_of_an_answer(ledger: JobLedger, ledger_url: str) -> None:
    ids = [f"{number:02}" for number in range(20)]
    track(ledger, *ids)
    record(ledger, *(answered(job_id, 100) for job_id in ids))
    done = threading.Event()

    def look_or_record(number: int) -> list[tuple[set[int | None], set[int], int]]:
        looks = []
        with JobLedger.open(ledger_url, clock=FakeClock()) as own:
            if number == 0:
                try:
                    for status in range(101, 131):
                        record(own, *(answered(job_id, status) for job_id in ids))
                finally:
                    done.set()
            else:
                while not done.is_set():
                    shot = own.snapshot(ACCOUNT, NOW - HOUR, NOW + HOUR)
                    looks.append(
                        ({job.status for job in shot.jobs}, {job.revision for job in shot.jobs}, shot.revision)
                    )
        return looks

    for looks in at_once(look_or_record, threads=3):
        assert all(len(statuses) == 1 and revisions == {revision} for statuses, revisions, revision in looks)
        seen = [revision for _, _, revision in looks]
        assert seen == sorted(seen)


def test_a_lease_is_taken_by_one_of_many(ledger: JobLedger, ledger_url: str) -> None:
    def take(number: int) -> LeaseFacts | None:
        with JobLedger.open(ledger_url, clock=FakeClock()) as own:
            return own.leases(ACCOUNT).take("tables", "2025-10-09", f"run {number}")

    holders = at_once(take, threads=6)
    (winner,) = [number for number, holder in enumerate(holders) if holder is None]
    assert {holder.owner for holder in holders if holder is not None} == {f"run {winner}"}


def test_outcomes_recorded_by_many_threads_of_one_ledger_all_count(ledger: JobLedger) -> None:
    ids = [f"{number:02}" for number in range(40)]
    complete(ledger, *ids)

    def store(number: int) -> None:
        for job_id in ids[number::4]:
            ledger.store_video(ACCOUNT, job_id, {"path": job_id})

    at_once(store)
    assert ledger.counts(ACCOUNT).videos == {"stored": 40}
    assert sorted(job.video_revision for job in ledger.iter_jobs(ACCOUNT)) == [nth(number) for number in range(3, 43)]
