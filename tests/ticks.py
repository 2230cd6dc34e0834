"""Ticks of a sensor against the emulator, by the tests' clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from akool_dagster.api import AkoolClient, ApiKey
from akool_dagster.api.models import load_payload
from akool_dagster.base.clock import Deadline
from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from akool_dagster.ledger import Job, JobLedger, JobState
from akool_dagster.polling import PollReport, run_poll_pass
from tests.clock import FakeClock

ACCOUNT = "akool"
TICKS = 200


def new_client(emulator: AkoolEmulator, clock: FakeClock, key: str = "emulator-key", **options: Any) -> AkoolClient:
    return AkoolClient(ApiKey(key), base_url=emulator.base_url, clock=clock, rng=random.Random(1), **options)


class Ticks:
    """Ticks half a minute apart. One call at a time unless told otherwise, so that faults hit the same calls always."""

    def __init__(
        self, ledger: JobLedger, client: AkoolClient, clock: FakeClock, *, concurrent_requests: int = 1
    ) -> None:
        self.concurrent_requests = concurrent_requests
        self.ledger = ledger
        self.client = client
        self.clock = clock
        self.reports: list[PollReport] = []

    def tick(self, ids_per_request: int = 15) -> PollReport:
        report = run_poll_pass(
            self.ledger.account(ACCOUNT),
            self.client,
            clock=self.clock,
            deadline=Deadline(self.clock, 45),
            ids_per_request=ids_per_request,
            concurrent_requests=self.concurrent_requests,
        )
        self.reports.append(report)
        self.clock.advance(30)
        return report

    def until(self, done: Callable[[], bool], ids_per_request: int = 15) -> None:
        for _ in range(TICKS):
            if done():
                return
            self.tick(ids_per_request)
        pytest.fail(f"not done after {TICKS} ticks; the last one: {self.reports[-1]}")

    def until_settled(self, ids_per_request: int = 15) -> None:
        self.until(lambda: all(job.state != JobState.PENDING for job in jobs(self.ledger).values()), ids_per_request)


def jobs(ledger: JobLedger) -> dict[str, Job]:
    return {job.job_id: job for job in ledger.account(ACCOUNT).jobs()}


def payload(job: Job) -> dict[str, Any]:
    return load_payload(job.payload or "{}")


def assert_ended_as_they_should(ledger: JobLedger, emulated: Iterable[EmulatedJob]) -> None:
    """Assert that the ledger has exactly the emulated jobs, each as Akool ended it."""
    found = jobs(ledger)
    expected = {job.job_id: job for job in emulated}
    assert {job_id: job.outcome for job_id, job in expected.items()} == {
        job_id: job.state for job_id, job in found.items()
    }
    for job_id, job in expected.items():
        told = payload(found[job_id])
        assert (told["_id"], told["create_time"], told["deduction_credit"], told["prompt"]) == (
            job_id,
            job.create_time,
            job.deduction_credit,
            job.prompt,
        )
        assert found[job_id].failure_reason == job.failure_reason
        assert found[job_id].misses == 0
