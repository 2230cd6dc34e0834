"""Each fault of the CDN meets the download of a video: a kind without an expectation here fails."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from akool_dagster.api import AkoolClient
from akool_dagster.base.clock import Deadline
from akool_dagster.emulator import FAULT_KINDS, AkoolEmulator, EmulatedJob, Endpoint
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.ledger import Job, JobLedger, TrackRequest, VideoState
from akool_dagster.polling import run_poll_pass
from akool_dagster.storage import StorageRoot
from akool_dagster.tables import VIDEOS
from akool_dagster.tables.spool import Spool
from akool_dagster.videos.fetch import FetchLimits
from akool_dagster.videos.landing import VideoLanding, VideoLandingReport
from akool_dagster.videos.schedule import FEWEST_ATTEMPTS
from tests.clock import FakeClock
from tests.integration.video_landings import WallClock
from tests.scripted_api import job_id
from tests.ticks import ACCOUNT, jobs, new_client

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


@pytest.fixture
def emulator(clock: FakeClock) -> Iterator[AkoolEmulator]:
    with AkoolEmulator(jobs=JOBS, clock=clock) as emulator:
        yield emulator


@pytest.fixture
def ledger(tmp_path: Path, clock: FakeClock, emulator: AkoolEmulator) -> Iterator[JobLedger]:
    """A ledger whose jobs are completed, so that their videos are due."""
    with JobLedger.create(f"sqlite:///{tmp_path / 'ledger.sqlite'}", clock=clock) as ledger:
        ledger.account(ACCOUNT).track([TrackRequest(job_id=job.job_id) for job in JOBS])
        with new_client(emulator, clock) as client:
            run_poll_pass(ledger.account(ACCOUNT), client, clock=clock, deadline=Deadline(clock, 45))
        emulator.journal.clear()
        yield ledger


class Landing:
    """Lands the videos that are due."""

    def __init__(self, ledger: JobLedger, emulator: AkoolEmulator, clock: FakeClock, folder: Path) -> None:
        self.ledger = ledger
        self.emulator = emulator
        self.clock = clock
        self.folder = folder

    def __call__(self, seconds_per_file: float = 60) -> VideoLandingReport:
        landing = VideoLanding(
            self.ledger.account(ACCOUNT),
            new_client=self._new_client,
            root=StorageRoot(str(self.folder)),
            policy=AddressPolicy(self.emulator.base_url),
            clock=WallClock(self.clock),
            log=lambda line: None,
            before_effect=lambda: None,
        )
        # One at a time: a drip moves the clock, and with it the deadline of whatever is under way.
        limits = FetchLimits(threads=1, seconds_per_file=seconds_per_file, max_bytes=MOST_BYTES)
        report = landing.land(None, 2**62, run_seconds=600, limits=limits)
        assert not any(thread.name.startswith("akool-video") for thread in threading.enumerate())
        return report

    def _new_client(self) -> AkoolClient:
        return new_client(self.emulator, self.clock)

    @property
    def victim(self) -> Job:
        return jobs(self.ledger)[VICTIM]

    @property
    def files(self) -> dict[str, bytes]:
        """Every file below the storage root, temporary ones too, by the job it is named after, but for kept ones."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".unverified")
        return {path.stem: path.read_bytes() for path in files}

    @property
    def kept(self) -> set[str]:
        """The jobs of which a file is kept that the verifier refused."""
        return {path.stem for path in self.folder.rglob("*.unverified")}


@pytest.fixture
def land(ledger: JobLedger, emulator: AkoolEmulator, clock: FakeClock, tmp_path: Path) -> Landing:
    return Landing(ledger, emulator, clock, tmp_path / "root")


@pytest.mark.parametrize("name", [name for name in KINDS if name != "other_length"])
def test_a_fault_publishes_nothing_partial_and_the_file_is_right_once_it_is_over(
    name: str, land: Landing, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    expected = EXPECTED[name]
    whole = {identifier: emulator.video_bytes(identifier) for identifier in (VICTIM, OTHER)}
    emulator.faults.add(name, endpoint="cdn", job_id=VICTIM, **expected.options)
    report = land(expected.seconds_per_file)

    assert name in {fault for call in emulator.journal.calls("cdn") for fault in call.faults}
    assert jobs(land.ledger)[OTHER].video_state == VideoState.STORED
    if expected.video == "stored":
        assert report.stored == 2
        assert land.files == whole
        return
    assert (report.stored, report.failed, report.lost) == (1, 1, 0)
    assert land.files == {OTHER: whole[OTHER]}
    assert land.kept == ({VICTIM} if name == "short_body_unsized" else set())
    assert land.victim.video_state == VideoState.PENDING
    assert re.search(expected.error, land.victim.video_error or ""), land.victim.video_error
    waits_seconds = ((land.victim.video_next_at or 0) - clock.now_ms()) / 1000
    assert expected.waits_seconds - 10 <= waits_seconds <= expected.waits_seconds  # a drip goes on moving the clock
    asked = [call.job_ids for call in emulator.journal.calls("resultsByIds")]
    assert asked == ([(VICTIM,)] if expected.asked_again else [])
    assert {call.auth_headers for call in emulator.journal.calls("cdn")} == {()}

    emulator.faults.clear()
    clock.advance(LONGEST_WAIT_SECONDS)
    assert land().stored == 1
    assert (land.files, land.kept) == (whole, set())
    assert (land.victim.video_state, land.victim.video_error) == (VideoState.STORED, None)


def test_nothing_is_expected_of_a_fault_that_is_not_there() -> None:
    assert EXPECTED.keys() == set(KINDS)


def test_a_good_video_of_another_length_is_stored_and_the_manifest_shows_both_lengths(
    land: Landing, emulator: AkoolEmulator
) -> None:
    emulator.faults.add("other_length", job_id=VICTIM)
    assert land().stored == 2
    assert land.files[VICTIM] != emulator.video_bytes(VICTIM)
    assert json.loads(land.victim.video_record or "")["probed_duration"] == pytest.approx(0.25, abs=0.05)
    landings = land.ledger.account(ACCOUNT).landings
    with landings.snapshot(0, 2**62) as snapshot:
        spool = Spool(snapshot, 0, [VIDEOS], landings.forgotten)
    with spool:
        row = next(row for row in spool.table(VIDEOS).whole().to_pylist() if row["_id"] == VICTIM)
    assert row["reported_duration"] == 0.5
    assert row["probed_duration"] == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    "location",
    ["http://10.0.0.1/a.mp4", "https://10.0.0.1/a.mp4", "https://[::1]/a.mp4", "http://169.254.169.254/", "ftp://a/b"],
)
def test_a_redirect_is_not_followed_into_a_private_network(
    location: str, land: Landing, emulator: AkoolEmulator
) -> None:
    emulator.faults.add("redirect_private", job_id=VICTIM, location=location)
    assert land().stored == 1
    assert "refused" in (land.victim.video_error or "") or "not an http" in (land.victim.video_error or "")


def test_a_video_whose_url_is_really_over_is_lost_after_five_attempts(
    land: Landing, emulator: AkoolEmulator, clock: FakeClock
) -> None:
    clock.advance(8 * 86_400)
    for _ in range(FEWEST_ATTEMPTS - 1):
        assert land().lost == 0
        clock.advance(LONGEST_WAIT_SECONDS)
    assert land().lost == 2
    assert {call.http_status for call in emulator.journal.calls("cdn")} == {403}
    assert land.files == {}


def test_every_video_is_stored_among_random_faults(land: Landing, emulator: AkoolEmulator, clock: FakeClock) -> None:
    emulator.faults.add_random(0.5, endpoint="cdn", hold_seconds=0)
    for _ in range(100):
        if {job.video_state for job in jobs(land.ledger).values()} == {VideoState.STORED}:
            break
        land()
        clock.advance(LONGEST_WAIT_SECONDS)
    assert land.files == {identifier: emulator.video_bytes(identifier) for identifier in (VICTIM, OTHER)}
