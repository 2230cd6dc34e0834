"""Words for tests of landings of videos from the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from akool_dagster.api import AkoolClient, ApiKey
from akool_dagster.base.clock import Deadline, SystemClock
from akool_dagster.emulator import AkoolEmulator, EmulatedJob
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.ledger import AccountLedger, Answered, Job, JobState, Polling, TrackRequest
from akool_dagster.polling import next_poll_delay_ms, run_poll_pass
from akool_dagster.storage import StorageRoot
from akool_dagster.tables import VIDEOS
from akool_dagster.tables.spool import Spool
from akool_dagster.videos.fetch import FetchLimits
from akool_dagster.videos.landing import VideoLanding, VideoLandingReport
from akool_dagster.videos.schedule import FEWEST_ATTEMPTS
from tests.clock import FakeClock
from tests.scripted_api import job_id

POLLING = Polling(next_poll_delay_ms=next_poll_delay_ms, ids_per_request=50)
DAY = 86_400
ALL_TIME = 2**62
IDS = [job_id(number) for number in range(4)]
JOBS = [
    EmulatedJob(job_id=identifier, queue_polls=0, video_duration=0.5 + number / 10, has_audio=number == 1)
    for number, identifier in enumerate(IDS)
]
FAILED_JOB = EmulatedJob(job_id=job_id(99), queue_polls=0, outcome="failed")
PRIVATE_JOB = EmulatedJob(job_id=job_id(98), queue_polls=0, extra_fields={"video_url": "https://10.0.0.1/a.mp4"})


class WallClock(SystemClock):
    """The time of a `FakeClock`; threads really wait, and wake each other, as they do in a run."""

    def __init__(self, wall: FakeClock) -> None:
        self._wall = wall

    def now_ms(self) -> int:
        return self._wall.now_ms()

    def monotonic(self) -> float:
        return self._wall.monotonic()


class Landing:
    """Lands what is due of an account, and keeps what was said and which clients were made."""

    def __init__(self, account: AccountLedger, emulator: AkoolEmulator, clock: FakeClock, root: StorageRoot) -> None:
        self.account = account
        self.emulator = emulator
        self.clock = clock
        self.root = root
        self.log: list[str] = []
        self.clients: list[AkoolClient] = []
        self.threads_clock = WallClock(clock)
        self.before_effect: Callable[[], None] = lambda: None

    def new_client(self) -> AkoolClient:
        client = AkoolClient(ApiKey("emulator-key"), base_url=self.emulator.base_url, clock=self.clock)
        self.clients.append(client)
        return client

    def poll(self, ids: Sequence[str] = IDS) -> None:
        """Let the jobs be tracked and completed."""
        self.account.track([TrackRequest(job_id=identifier) for identifier in ids])
        with self.new_client() as client:
            run_poll_pass(self.account, client, clock=self.clock, deadline=Deadline(self.clock, 45))
        self.clients.clear()
        self.emulator.journal.clear()

    def complete(self, identifier: str, url: str | None, lives: float = 7 * DAY, **fields: object) -> None:
        """Record a job as completed with a video at a URL of the test's choice that lives so many seconds, or none."""
        self.account.track([TrackRequest(job_id=identifier)])
        payload = json.dumps({"_id": identifier, "status": 3, **fields} | ({"video_url": url} if url else {}))
        expires_at = self.clock.now_ms() + int(lives * 1000)
        told = Answered(
            job_id=identifier, status=3, payload=payload, has_video_url=url is not None, video_expires_at=expires_at
        )
        while self.jobs[identifier].state == JobState.PENDING:  # without a URL it is looked at again a few times
            self.account.polling.record([told], POLLING)

    def __call__(self, start: int | None = None, end: int = ALL_TIME, **options: Any) -> VideoLandingReport:
        landing = VideoLanding(
            self.account,
            new_client=self.new_client,
            root=self.root,
            policy=AddressPolicy(self.emulator.base_url),
            clock=self.threads_clock,
            log=self.log.append,
            before_effect=lambda: self.before_effect(),
        )
        run_seconds = options.pop("run_seconds", 60.0)
        limits: dict[str, Any] = {"threads": 4, "seconds_per_file": 60.0, "max_bytes": 10_000_000, **options}
        return landing.land(start, end, run_seconds=run_seconds, limits=FetchLimits(**limits))

    def until_lost(self, identifier: str) -> VideoLandingReport:
        """Land again and again, each time when the video is due, until it is lost; return the last report."""
        for _ in range(FEWEST_ATTEMPTS):
            report = self()
            due_at = self.jobs[identifier].video_next_at
            if due_at is None:
                return report
            self.clock.advance(max(0, due_at - self.clock.now_ms()) / 1000)
        raise AssertionError(f"{identifier} is not lost after {FEWEST_ATTEMPTS} attempts")

    @property
    def jobs(self) -> dict[str, Job]:
        return {job.job_id: job for job in self.account.jobs()}

    def manifest(self) -> list[dict[str, Any]]:
        """Return the rows that the manifest of the videos would have now."""
        with self.account.landings.snapshot(0, ALL_TIME) as snapshot:
            spool = Spool(snapshot, 0, [VIDEOS], self.account.landings.forgotten)
        with spool:
            rows: list[dict[str, Any]] = spool.table(VIDEOS).whole().to_pylist()
        return rows

    @property
    def files(self) -> dict[str, bytes]:
        folder = Path(self.root.uri())
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def path_of(identifier: str) -> str:
    return f"akool/videos/2025-10-09/{identifier}.mp4"
