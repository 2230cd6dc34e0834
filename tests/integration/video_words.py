"""Words for tests of `fetch_videos`: requests, a fetch that keeps what it said, a clock that flies."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from akool_dagster.base.clock import Deadline, SystemClock
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.fetch import (
    FailedVideo,
    FetchLimits,
    FetchSummary,
    Outcome,
    StoredVideo,
    VideoRequest,
    fetch_videos,
)
from akool_dagster.videos.refresh import AkoolSays, Refreshed
from tests.clock import FakeClock
from tests.video_server import VideoServer

DAY_MS = 86_400_000
PARTITION_MS = 1_760_000_000_000
FOLDER = "akool/videos/2025-10-09"
NEVER = 1e9
LIMITS = {field.name for field in fields(FetchLimits)}


def files_below(root: StorageRoot) -> list[str]:
    folder = Path(root.uri())
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def requested(job_id: str, url: str, **options: Any) -> VideoRequest:
    options = {"expires_at_ms": PARTITION_MS + 7 * DAY_MS, "partition_at_ms": PARTITION_MS, **options}
    return VideoRequest(job_id=job_id, source_url=url, **options)


class Fetch:
    """Runs `fetch_videos` against a server and keeps what it said."""

    def __init__(self, server: VideoServer, root: StorageRoot) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.refreshed: list[str] = []
        self.options: dict[str, Any] = {
            "root": root,
            "folder": "akool/videos",
            "policy": AddressPolicy(server.base_url),
            "clock": SystemClock(),
            "time_budget": Deadline(FakeClock(), NEVER),
            "refresh": self.refresh,
            "on_outcome": self.hear,
        }

    def refresh(self, job_id: str, url: str, deadline: Deadline) -> Refreshed:
        self.refreshed.append(job_id)
        return Refreshed(says=AkoolSays.NO_ROW)

    def hear(self, outcome: Outcome) -> None:
        assert threading.current_thread() is threading.main_thread()
        assert outcome.job_id not in self.outcomes
        self.outcomes[outcome.job_id] = outcome

    def __call__(self, *requests: VideoRequest, **options: Any) -> FetchSummary:
        limits = {name: options.pop(name) for name in LIMITS & options.keys()}
        return fetch_videos(requests, limits=FetchLimits(**limits), **{**self.options, **options})

    def failed(self, job_id: str) -> FailedVideo:
        outcome = self.outcomes[job_id]
        assert isinstance(outcome, FailedVideo)
        return outcome

    def stored(self, job_id: str) -> StoredVideo:
        outcome = self.outcomes[job_id]
        assert isinstance(outcome, StoredVideo)
        return outcome

    def stored_so_far(self, prefix: str) -> int:
        """How many were stored of the videos whose ids begin so."""
        return sum(isinstance(one, StoredVideo) and job.startswith(prefix) for job, one in self.outcomes.items())


class FlyingClock(FakeClock):
    """Time flies as long as ``flying`` says so, and is the machine's at all other times."""

    def __init__(self, flying: Callable[[], bool]) -> None:
        super().__init__()
        self._flying = flying

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if self._flying():
            return super().wait(event, seconds)
        return event.wait(seconds)


def held_clock(server: VideoServer, hold: threading.Event) -> FlyingClock:
    """Return a clock whose time flies as long as the server holds an answer back."""
    return FlyingClock(lambda: server.sending.is_set() and not hold.is_set())
