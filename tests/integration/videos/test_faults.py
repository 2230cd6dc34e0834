"""Each fault of the CDN meets the download of a video: a kind without an expectation here fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator, EmulatedJob, Endpoint
from akool_dagster.ledger import JobLedger, VideoState
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.landing import VideoLandingReport
from tests.clock import FakeClock
from tests.integration.videos.landings import Landing
from tests.scripted_api import job_id

VICTIM, OTHER = job_id(1), job_id(2)
JOBS = [EmulatedJob(job_id=identifier, queue_polls=0, video_duration=0.5) for identifier in (VICTIM, OTHER)]
MOST_BYTES = 1_000_000
LONGEST_WAIT_SECONDS = 3600


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a landing makes of a video under the fault, and what the ledger says of it then."""

    video: Literal["stored", "later"] = "later"
    error: str = ""
    asked_again: bool = False
    """Whether Akool is asked for a new URL."""
    waits_seconds: float = 30
    """Before the next attempt."""
    options: dict[str, Any] = field(default_factory=dict)
    seconds_per_file: float = 60


BROKE_OFF = "broke off"
EXPECTED = {
    "latency": Expected(video="stored", options={"seconds": 2.0}),
    "reset": Expected(error=BROKE_OFF),
    "reset_body": Expected(error=BROKE_OFF),
    "timeout": Expected(error="took too long", seconds_per_file=0.2),
    "short_body": Expected(error=BROKE_OFF),
    "short_body_unsized": Expected(error="video"),
    "slow_drip": Expected(error="stalled"),
    "oversized": Expected(error="more than the limit", options={"bytes": MOST_BYTES + 1}, waits_seconds=3600),
    "429": Expected(error="HTTP 429"),
    "500": Expected(error="HTTP 500"),
    "502": Expected(error="HTTP 502"),
    "503": Expected(error="HTTP 503"),
    "expired_url": Expected(error="HTTP 403", asked_again=True),
    "404": Expected(error="HTTP 404", asked_again=True),
    "410": Expected(error="HTTP 410", asked_again=True),
    "html_200": Expected(error="video"),
    "empty_body": Expected(error="empty body"),
    "other_length": Expected(video="stored"),
    "redirect": Expected(video="stored"),
    "redirect_loop": Expected(error="redirects more than", waits_seconds=3600),
    "redirect_private": Expected(error=r"169\.254\.169\.254 is refused", waits_seconds=3600),
    "redirect_file": Expected(error="not an http or https URL", waits_seconds=3600),
}
KINDS = [name for name, kind in FAULT_KINDS.items() if Endpoint.CDN in kind.allowed]


@pytest.fixture(scope="module")
def clock() -> FakeClock:
    """Give the clock of the emulator and of every landing: a drip moves it."""
    return FakeClock()


@pytest.fixture(scope="module")
def emulator(clock: FakeClock) -> Iterator[AkoolEmulator]:
    with AkoolEmulator(jobs=JOBS, clock=clock) as emulator:
        yield emulator


@pytest.fixture
def land(emulator: AkoolEmulator, ledger: JobLedger, clock: FakeClock, root: StorageRoot) -> Landing:
    emulator.faults.clear()
    land = Landing(ledger.account("akool"), emulator, clock, root)
    land.poll([VICTIM, OTHER])
    return land


def landed(land: Landing, seconds_per_file: float = 60) -> VideoLandingReport:
    """Land with one thread: a drip moves the clock, and with it the deadline of whatever is under way."""
    return land(threads=1, seconds_per_file=seconds_per_file, max_bytes=MOST_BYTES, run_seconds=600)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "other_length"])
def test_a_fault_publishes_nothing_partial_and_the_file_is_right_once_it_is_over(
    name: str, land: Landing, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    expected = EXPECTED[name]
    whole = {identifier: emulator.video_bytes(identifier) for identifier in (VICTIM, OTHER)}
    emulator.faults.add(name, endpoint="cdn", job_id=VICTIM, **expected.options)
    report = landed(land, expected.seconds_per_file)

    assert name in {fault for call in emulator.journal.calls("cdn") for fault in call.faults}
    if expected.video == "stored":
        assert report.stored == 2
        assert land.videos == whole
        return
    assert (report.stored, report.failed, report.lost) == (1, 1, 0)
    assert land.videos == {OTHER: whole[OTHER]}
    assert land.kept == ({VICTIM} if name == "short_body_unsized" else set())
    victim = land.jobs[VICTIM]
    assert victim.video_state == VideoState.PENDING
    assert re.search(expected.error, victim.video_error or ""), victim.video_error
    waits_seconds = ((victim.video_next_at or 0) - clock.now_ms()) / 1000
    assert expected.waits_seconds - 10 <= waits_seconds <= expected.waits_seconds  # a drip goes on moving the clock
    asked = [call.job_ids for call in emulator.journal.calls("resultsByIds")]
    assert asked == ([(VICTIM,)] if expected.asked_again else [])
    assert {call.auth_headers for call in emulator.journal.calls("cdn")} == {()}

    emulator.faults.clear()
    clock.advance(LONGEST_WAIT_SECONDS)
    assert landed(land).stored == 1
    assert (land.videos, land.kept) == (whole, set())
    assert (land.jobs[VICTIM].video_state, land.jobs[VICTIM].video_error) == (VideoState.STORED, None)


def test_nothing_is_expected_of_a_fault_that_is_not_there() -> None:
    assert EXPECTED.keys() == set(KINDS)


def test_a_good_video_of_another_length_is_stored_and_the_manifest_shows_both_lengths(
    land: Landing, emulator: AkoolEmulator
) -> None:
    emulator.faults.add("other_length", job_id=VICTIM)
    assert landed(land).stored == 2
    assert json.loads(land.jobs[VICTIM].video_record or "")["probed_duration"] == pytest.approx(0.25, abs=0.05)
    row = next(row for row in land.manifest() if row["_id"] == VICTIM)
    assert row["reported_duration"] == 0.5
    assert row["probed_duration"] == pytest.approx(0.25, abs=0.05)


def test_every_video_is_stored_among_random_faults(land: Landing, emulator: AkoolEmulator, clock: FakeClock) -> None:
    emulator.faults.add_random(0.5, endpoint="cdn", hold_seconds=0)
    for _ in range(100):
        if {job.video_state for job in land.jobs.values()} == {VideoState.STORED}:
            break
        landed(land)
        clock.advance(LONGEST_WAIT_SECONDS)
    assert land.videos == {identifier: emulator.video_bytes(identifier) for identifier in (VICTIM, OTHER)}
