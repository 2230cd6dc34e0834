"""Each fault of the table meets a poll pass with a real ledger: a kind without an expectation here fails."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from akool_dagster.api import (
    AkoolAccountError,
    AkoolClient,
    AkoolCredentialsError,
    AkoolError,
    ClientCredentials,
)
from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator, EmulatedJob, Endpoint
from akool_dagster.ledger import Job, JobLedger, JobState, TrackRequest, VideoState
from tests.clock import FakeClock
from tests.scripted_api import job_id
from tests.ticks import ACCOUNT, Ticks, assert_ended_as_they_should, jobs, new_client, payload

JOBS = [
    EmulatedJob(
        job_id=job_id(number),
        queue_polls=0,
        outcome="failed" if number in (2, 6) else "completed",
        failure_reason="The input image could not be downloaded." if number in (2, 6) else None,
        prompt=f"Picture {number}",
    )
    for number in range(8)
]
VICTIM = job_id(3)
CREDENTIALS = ClientCredentials("emulator-client", "emulator-secret")
OF_VICTIM: dict[str, Any] = {"job_id": VICTIM}


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a pass does while the fault is on: which of the jobs settle, and how it ends."""

    settles: Literal["all", "none", "others"]
    stopped: str | None = None
    raises: type[AkoolError] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)


def outage(stopped: str, **options: Any) -> Expected:
    return Expected(settles="none", stopped=stopped, options=options)


UNREACHED = "could not be reached"
NOT_JSON = "not JSON"
EXPECTED = {
    "latency": Expected(settles="all", options={"seconds": 2.0}),
    "reset": outage(UNREACHED),
    "reset_body": outage(UNREACHED),
    "timeout": Expected(settles="none", stopped=UNREACHED, client={"read_timeout": 0.05, "attempts": 1}),
    "short_body": outage(UNREACHED),
    "short_body_unsized": outage(NOT_JSON),
    "slow_drip": outage("time for this call ran out|tick.s time was over"),  # a drip goes on moving the clock
    "oversized": Expected(
        settles="none", stopped="larger than", options={"bytes": 20_000}, client={"largest_answer": 10_000}
    ),
    "429": outage("goes on in 30 s"),
    "1005": outage("goes on in 40 s", retry_after=40),
    "500": outage("HTTP 500"),
    "502": outage("HTTP 502"),
    "503": outage("goes on in 120 s", retry_after="Thu, 09 Oct 2025 08:55:20 GMT"),
    "1015": outage("1015"),
    "2001": outage("2001"),
    "expired_token": Expected(settles="none", raises=AkoolCredentialsError),
    "banned_account": Expected(settles="none", raises=AkoolAccountError),
    "poison_id": Expected(settles="others", options=OF_VICTIM),
    "foreign_id": Expected(settles="others", options=OF_VICTIM),
    "cut_json": outage(NOT_JSON),
    "data_null": Expected(settles="none"),
    "empty_result": Expected(settles="none"),
    "unasked_rows": Expected(settles="all"),
    "shuffled_rows": Expected(settles="all"),
    "missing_row": Expected(settles="others", options=OF_VICTIM),
    "duplicate_rows": Expected(settles="all"),
    "numeric_strings": Expected(settles="all"),
    "unknown_status": Expected(settles="others", options=OF_VICTIM),
    "unknown_fields": Expected(settles="all"),
    "no_video_url": Expected(settles="others", options=OF_VICTIM),
    "failed_job": Expected(settles="all", options=OF_VICTIM),
    "html_200": outage(NOT_JSON),
    "empty_body": outage(NOT_JSON),
}
KINDS = [name for name, kind in FAULT_KINDS.items() if Endpoint.RESULTS in kind.allowed]


def conclusions(job: Job) -> tuple[object, ...]:
    """What was concluded of a job, beside how often it was asked for."""
    return job.state, job.settled_at, job.failure_reason, job.video_state


@pytest.mark.parametrize("name", KINDS)
def test_a_fault_concludes_nothing_false_and_every_job_ends_right_once_it_is_over(
    name: str, emulator: AkoolEmulator, ledger: JobLedger, client: AkoolClient, clock: FakeClock
) -> None:
    expected = EXPECTED[name]
    before = jobs(ledger)
    emulator.faults.add(name, endpoint="resultsByIds", **expected.options)
    with new_client(emulator, clock, **expected.client) as meeting:
        ticks = Ticks(ledger, meeting, clock)
        if expected.raises is not None:
            with pytest.raises(expected.raises):
                ticks.tick(ids_per_request=3)
        else:
            report = ticks.tick(ids_per_request=3)
            assert re.search(expected.stopped or "^None$", str(report.stopped)), report.stopped
    assert name in {fault for call in emulator.journal.requests for fault in call.faults}

    emulated = {job.job_id: job for job in emulator.jobs.values()}
    withheld = {"all": set(), "others": {VICTIM}, "none": set(emulated)}[expected.settles]
    for identifier, job in jobs(ledger).items():
        if identifier in withheld:
            assert conclusions(job) == conclusions(before[identifier])
        else:
            assert job.state == emulated[identifier].outcome

    emulator.faults.clear()
    Ticks(ledger, client, clock).until_settled()
    assert_ended_as_they_should(ledger, emulated.values())
    assert {job.video_state for job in jobs(ledger).values()} == {None, VideoState.PENDING}


def test_nothing_is_expected_of_a_fault_that_is_not_there() -> None:
    assert EXPECTED.keys() == set(KINDS)


@pytest.mark.parametrize("options", [{"code": 1008}, {"code": 1014}, {"code": 1007}, {"http_status": 500}])
def test_a_poison_id_of_any_kind_ends_alone_and_holds_up_nobody(
    options: dict[str, Any], emulator: AkoolEmulator, ledger: JobLedger, client: AkoolClient, clock: FakeClock
) -> None:
    emulator.faults.add("poison_id", job_id=VICTIM, **options)
    Ticks(ledger, client, clock).tick(ids_per_request=8)
    found = jobs(ledger)
    assert {identifier for identifier, job in found.items() if job.state == JobState.PENDING} == {VICTIM}
    assert found[VICTIM].call_size == 1


def test_odd_fields_are_kept_as_they_came_and_texts_are_stored_as_the_numbers_they_are(
    emulator: AkoolEmulator, ledger: JobLedger, client: AkoolClient, clock: FakeClock
) -> None:
    emulator.faults.add("unknown_fields", job_id=VICTIM)
    emulator.faults.add("numeric_strings")
    Ticks(ledger, client, clock).tick()
    assert payload(jobs(ledger)[VICTIM])["extra"]["render_tier"] == "gold"
    told = payload(jobs(ledger)[job_id(4)])
    assert (told["status"], told["video_duration"], told["uid"]) == (3, 5.063, 100001)


def test_a_status_that_nobody_knows_is_kept_and_ends_no_job(
    emulator: AkoolEmulator, ledger: JobLedger, client: AkoolClient, clock: FakeClock
) -> None:
    emulator.faults.add("unknown_status", job_id=VICTIM)
    ticks = Ticks(ledger, client, clock)
    for _ in range(6):
        ticks.tick()
    assert (jobs(ledger)[VICTIM].state, jobs(ledger)[VICTIM].status) == (JobState.PENDING, 99)


def test_a_completed_job_that_gets_no_video_url_ends_and_its_run_goes_on_asking(
    emulator: AkoolEmulator, ledger: JobLedger, client: AkoolClient, clock: FakeClock
) -> None:
    emulator.faults.add("no_video_url", job_id=VICTIM)
    Ticks(ledger, client, clock).until_settled()
    job = jobs(ledger)[VICTIM]
    assert (job.state, job.video_state, job.urlless_polls) == (JobState.COMPLETED, VideoState.PENDING, 5)


def test_a_job_that_moves_on_by_itself_is_not_hurried_by_unasked_rows(
    emulator: AkoolEmulator, ledger: JobLedger, client: AkoolClient, clock: FakeClock
) -> None:
    slow = EmulatedJob(job_id=job_id(20), queue_seconds=3600)
    emulator.add_job(slow)
    emulator.faults.add("unasked_rows")
    ledger.account(ACCOUNT).track([TrackRequest(job_id=slow.job_id)])
    Ticks(ledger, client, clock).tick(ids_per_request=1)
    assert (jobs(ledger)[slow.job_id].state, jobs(ledger)[slow.job_id].status) == (JobState.PENDING, 1)


# The other endpoints of the API

ELSEWHERE = [
    (endpoint, name)
    for endpoint in (Endpoint.TOKEN, Endpoint.CREDIT)
    for name, kind in FAULT_KINDS.items()
    if endpoint in kind.allowed
]


@pytest.mark.parametrize(("endpoint", "name"), ELSEWHERE)
def test_the_balance_is_right_or_an_error_whatever_is_wrong_with_token_or_balance(
    endpoint: Endpoint, name: str, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    emulator.faults.add(name, endpoint=endpoint, **EXPECTED[name].options)
    with AkoolClient(CREDENTIALS, base_url=emulator.base_url, clock=clock, **EXPECTED[name].client) as client:
        if name == "latency":
            assert client.credit() == emulator.credit
        else:
            with pytest.raises(AkoolError):
                client.credit()
        assert name in {fault for call in emulator.journal.calls(endpoint) for fault in call.faults}
        emulator.faults.clear()
        assert client.credit() == emulator.credit


@pytest.mark.parametrize("name", ["502", "banned_account"])
def test_trouble_with_the_token_leaves_every_job_pending_and_passes(
    name: str, emulator: AkoolEmulator, ledger: JobLedger, clock: FakeClock
) -> None:
    before = {identifier: conclusions(job) for identifier, job in jobs(ledger).items()}
    emulator.faults.add(name, endpoint="getToken")
    with AkoolClient(CREDENTIALS, base_url=emulator.base_url, clock=clock) as client:
        ticks = Ticks(ledger, client, clock)
        if name == "502":
            assert ticks.tick().stopped
        else:
            with pytest.raises(AkoolAccountError):
                ticks.tick()
        assert {identifier: conclusions(job) for identifier, job in jobs(ledger).items()} == before
        emulator.faults.clear()
        ticks.until_settled()
    assert_ended_as_they_should(ledger, JOBS)
