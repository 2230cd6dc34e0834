from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.api import AkoolClient, ClientCredentials
from akool_dagster.api.errors import AkoolCredentialsError
from akool_dagster.base.clock import Deadline
from akool_dagster.emulator import AkoolEmulator, EmulatedJob, population
from akool_dagster.ledger import JobLedger, JobState, TrackRequest
from akool_dagster.polling import PollReport, run_poll_pass
from tests.clock import FakeClock
from tests.scripted_api import job_id
from tests.ticks import ACCOUNT, Ticks, assert_ended_as_they_should, jobs, new_client

JOBS = population(40, seed=7, now_ms=FakeClock().now_ms())
IDS = sorted(job.job_id for job in JOBS)


@pytest.fixture
def emulator(clock: FakeClock) -> Iterator[AkoolEmulator]:
    with AkoolEmulator(jobs=JOBS, clock=clock) as emulator:
        yield emulator


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock) -> Iterator[JobLedger]:
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        ledger.account(ACCOUNT).track([TrackRequest(job_id=identifier) for identifier in IDS])
        yield ledger


@pytest.fixture
def client(emulator: AkoolEmulator, clock: FakeClock) -> Iterator[AkoolClient]:
    with new_client(emulator, clock) as client:
        yield client


@pytest.fixture
def ticks(ledger: JobLedger, client: AkoolClient, clock: FakeClock) -> Ticks:
    return Ticks(ledger, client, clock)


def assert_all_ended_as_they_should(ledger: JobLedger) -> None:
    assert_ended_as_they_should(ledger, JOBS)


def test_a_whole_population_settles(ticks: Ticks, ledger: JobLedger, emulator: AkoolEmulator) -> None:
    ticks.until_settled()

    assert_all_ended_as_they_should(ledger)
    calls = emulator.journal.calls("resultsByIds")
    assert len(calls) == sum(report.calls for report in ticks.reports)
    assert sum(report.recorded.completed + report.recorded.failed for report in ticks.reports) == len(JOBS)
    assert all(1 <= len(call.job_ids) <= 15 for call in calls)
    assert len(calls[: ticks.reports[0].calls]) == ceil(len(JOBS) / 15)
    assert ticks.tick().calls == 0  # nobody asks for what has ended


def test_what_polling_saw_of_a_job_is_in_order(ticks: Ticks, ledger: JobLedger) -> None:
    ticks.until_settled()
    for job in jobs(ledger).values():
        moments = [job.tracked_at, job.queueing_seen_at, job.processing_seen_at, job.settled_at]
        seen = [moment for moment in moments if moment is not None]
        assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("1005", {"times": 9}),
        ("1005", {"times": 2, "retry_after": 400}),
        ("429", {"times": 9, "retry_after": 3}),
        ("502", {"times": 30}),
        ("reset", {"times": 12}),
        ("short_body", {"times": 12, "endpoint": "resultsByIds"}),
        ("missing_row", {"times": 60}),
    ],
    ids=lambda value: str(value),
)
def test_every_job_settles_once_the_fault_is_over(
    ticks: Ticks, ledger: JobLedger, emulator: AkoolEmulator, name: str, options: dict[str, Any]
) -> None:
    emulator.faults.add(name, **options)
    ticks.until_settled()
    assert emulator.faults.active == ()
    assert sum(name in call.faults for call in emulator.journal.requests) >= min(options["times"], 2)
    assert_all_ended_as_they_should(ledger)


@pytest.mark.parametrize("seed", range(5))
def test_every_job_settles_among_random_faults(seed: int, ledger: JobLedger, clock: FakeClock) -> None:
    with (
        AkoolEmulator(jobs=JOBS, clock=clock, seed=seed) as emulator,
        new_client(emulator, clock, read_timeout=2) as client,
    ):
        emulator.faults.add_random(0.5, hold_seconds=0)
        Ticks(ledger, client, clock).until_settled(ids_per_request=4)
        assert len({name for call in emulator.journal.requests for name in call.faults}) >= 6
    assert_all_ended_as_they_should(ledger)


def test_a_throttle_that_names_a_time_is_left_alone_for_so_long(
    ticks: Ticks, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    emulator.faults.add("429", times=1, retry_after=100)
    assert ticks.tick().calls == 1
    throttled_at = emulator.journal.requests[-1].time_ms
    ticks.until(lambda: len(emulator.journal.requests) > 1)
    assert emulator.journal.requests[1].time_ms - throttled_at >= 100_000


def test_a_job_that_fails_at_akool_is_recorded_as_failed(
    ticks: Ticks, ledger: JobLedger, emulator: AkoolEmulator
) -> None:
    victim = next(job for job in JOBS if job.outcome == "completed")
    emulator.faults.add("failed_job", job_id=victim.job_id, times=1)
    ticks.until_settled()
    job = jobs(ledger)[victim.job_id]
    assert (job.state, job.video_state) == (JobState.FAILED, None)
    assert "could not be generated" in (job.failure_reason or "")


def test_a_row_that_stays_away_ends_missing_and_never_completed(
    ticks: Ticks, ledger: JobLedger, emulator: AkoolEmulator
) -> None:
    emulator.faults.add("missing_row", job_id=IDS[3])
    ticks.until_settled()
    found = jobs(ledger)
    assert found[IDS[3]].state == JobState.MISSING
    assert Counter(job.state for job in found.values())[JobState.MISSING] == 1
    emulator.faults.clear()
    ledger.account(ACCOUNT).track([TrackRequest(job_id=IDS[3])], again=True)
    ticks.until_settled()
    assert_all_ended_as_they_should(ledger)


def test_ids_that_akool_does_not_know_do_not_hold_up_the_others(ticks: Ticks, ledger: JobLedger) -> None:
    strangers = [job_id(number) for number in range(20)]
    ledger.account(ACCOUNT).track([TrackRequest(job_id=identifier) for identifier in strangers])
    ticks.until_settled()
    found = jobs(ledger)
    assert {found[identifier].state for identifier in strangers} == {JobState.MISSING}
    assert {found[identifier].state for identifier in IDS} == {JobState.COMPLETED, JobState.FAILED}


def test_an_outage_is_survived(ticks: Ticks, ledger: JobLedger, emulator: AkoolEmulator) -> None:
    ticks.tick()
    emulator.stop()
    for _ in range(4):
        report = ticks.tick()
        assert report.recorded.changed == 0
    emulator.start()
    ticks.until_settled()
    assert_all_ended_as_they_should(ledger)


def test_a_wrong_key_leaves_every_job_pending_and_names_the_variable(
    ledger: JobLedger, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    before = jobs(ledger)
    wrong = new_client(emulator, clock, key="wrong-key-of-somebody")
    with wrong, pytest.raises(AkoolCredentialsError, match="AKOOL_API_KEY") as caught:
        Ticks(ledger, wrong, clock).tick()
    assert "wrong-key-of-somebody" not in str(caught.value)
    assert [request.code for request in emulator.journal.requests] == [1109]
    assert jobs(ledger) == before
    with new_client(emulator, clock) as client:
        ticks = Ticks(ledger, client, clock)
        ticks.until_settled()
    assert_all_ended_as_they_should(ledger)


def test_an_expired_token_is_renewed_within_a_pass(
    ledger: JobLedger, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    pair = ClientCredentials("emulator-client", "emulator-secret")
    with AkoolClient(pair, base_url=emulator.base_url, clock=clock) as client:
        ticks = Ticks(ledger, client, clock)
        ticks.tick()
        emulator.expire_token()
        ticks.until_settled()
    assert_all_ended_as_they_should(ledger)
    assert len(emulator.journal.calls("getToken")) == 2
    assert {request.auth_headers for request in emulator.journal.calls("resultsByIds")} == {("authorization",)}


def test_calls_that_are_too_large_for_akool_are_taken_apart(ledger: JobLedger, clock: FakeClock) -> None:
    with AkoolEmulator(jobs=JOBS, clock=clock, max_ids_per_call=7) as emulator, new_client(emulator, clock) as client:
        ticks = Ticks(ledger, client, clock)
        ticks.tick(ids_per_request=40)
        assert {job.polls for job in jobs(ledger).values()} == {1}
        ticks.until_settled()
        assert ledger.account(ACCOUNT).polling.call_limit() in range(4, 8)
    assert_all_ended_as_they_should(ledger)


def test_passes_in_several_threads_ask_every_id_once(ledger: JobLedger, emulator: AkoolEmulator) -> None:
    still = FakeClock()  # which no pass moves, so that nothing is due a second time

    def one_pass(_: int) -> PollReport:
        with new_client(emulator, still) as client:
            return run_poll_pass(
                ledger.account(ACCOUNT), client, clock=still, deadline=Deadline(still, 45), ids_per_request=3
            )

    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(one_pass, range(4)))

    asked = Counter(identifier for call in emulator.journal.requests for identifier in call.job_ids)
    assert asked == dict.fromkeys(IDS, 1)
    assert sum(report.polled for report in reports) == len(IDS)


def test_one_pass_asks_for_hundreds_of_ids_in_few_calls(ledger: JobLedger, clock: FakeClock) -> None:
    many = [EmulatedJob(job_id=job_id(number), queue_polls=0) for number in range(330)]
    ledger.account("many").track([TrackRequest(job_id=job.job_id) for job in many])
    with AkoolEmulator(jobs=many, clock=clock) as emulator, new_client(emulator, clock) as client:
        report = run_poll_pass(ledger.account("many"), client, clock=clock, deadline=Deadline(clock, 45))
        assert sorted(len(call.job_ids) for call in emulator.journal.requests) == [30] + [50] * 6
    assert (report.calls, report.recorded.completed) == (7, 330)
