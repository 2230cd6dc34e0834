"""What hangs, drips and fails without end: downloads are broken off in time, and others go on meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from akool_dagster.base.clock import Deadline
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.http.bounds import LowSpeedLimit
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.fetch import Outcome
from akool_dagster.videos.refresh import AkoolSays, Refreshed
from akool_dagster.videos.schedule import Failure
from tests.integration.video_words import FOLDER, NEVER, Fetch, FlyingClock, files_below, held_clock, requested
from tests.mp4 import render_video
from tests.video_server import Answer, VideoServer

pytestmark = pytest.mark.usefixtures("short_slices")

HOSTS = ["cdn.example", "dead.example", "good.example"]


@pytest.fixture
def server() -> Iterator[VideoServer]:
    with VideoServer() as server:
        yield server


@pytest.fixture
def root(tmp_path: Path) -> StorageRoot:
    return StorageRoot(str(tmp_path / "root"))


@pytest.fixture
def fetch(server: VideoServer, root: StorageRoot) -> Fetch:
    return Fetch(server, root)


SLOW = {
    "a body that stops": {"hold_head": False, "drip": False},
    "a body that drips": {"hold_head": False, "drip": True},
    "a head that stops": {"hold_head": True, "drip": False},
    "a head that drips": {"hold_head": True, "drip": True},
}


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
def test_what_comes_too_slowly_is_broken_off_long_before_its_deadline(
    slow: dict[str, Any], fetch: Fetch, server: VideoServer, root: StorageRoot
) -> None:
    hold = threading.Event()
    clock = held_clock(server, hold)
    server.answers["/slow"] = Answer(body=render_video(), hold=hold, **slow)
    server.serve("/good", render_video())

    def release(outcome: Outcome) -> None:
        hold.set()
        fetch.hear(outcome)

    fetch(
        requested("slow", server.url("/slow"), expires_at_ms=1),
        requested("good", server.url("/good"), expires_at_ms=2),
        threads=1,
        clock=clock,
        seconds_per_file=NEVER,
        on_outcome=release,
    )
    assert not server.gave_up
    failed = fetch.failed("slow")
    assert failed.error == "127.0.0.1 stalled: it sent less than 1024 bytes/s for 30 s."
    assert (failed.failure, failed.host_answers) == (Failure.PASSING, False)
    assert fetch.stored("good")
    assert files_below(root) == [f"{FOLDER}/good.mp4"]


def test_the_low_speed_limit_can_be_set(fetch: Fetch, server: VideoServer) -> None:
    hold = threading.Event()
    clock = held_clock(server, hold)
    server.answers["/slow"] = Answer(body=render_video(), hold=hold)

    def release(outcome: Outcome) -> None:
        hold.set()
        fetch.hear(outcome)

    limit = LowSpeedLimit(bytes_per_second=5.0, seconds=200.0)
    fetch(
        requested("slow", server.url("/slow")), clock=clock, low_speed=limit, seconds_per_file=NEVER, on_outcome=release
    )
    assert "less than 5 bytes/s for 200 s" in fetch.failed("slow").error
    assert clock.monotonic() >= 200


class Phase:
    """One thing that a download can wait for, which never comes: ``begun`` is set when it is waited for."""

    def __init__(self, server: VideoServer, fetch: Fetch, hold: threading.Event) -> None:
        self.server = server
        self.fetch = fetch
        self.hold = hold
        self.begun = server.sending
        self.url = server.url("/slow")

    def resolving(self) -> None:
        self.begun, self.url = threading.Event(), "https://cdn.example/a.mp4"

        def resolver(host: str, port: int) -> list[str]:
            if host == "cdn.example":
                self.begun.set()
                self.hold.wait(30)
            return ["127.0.0.1"]

        self.fetch.options["policy"] = AddressPolicy(self.server.base_url, HOSTS, resolver=resolver)

    def head(self) -> None:
        self.server.answers["/slow"] = Answer(hold=self.hold, hold_head=True, drip=True)

    def head_behind_a_redirect(self) -> None:
        self.head()
        self.url = self.server.serve("/a", b"", status=302, headers={"Location": "/slow"})

    def body(self) -> None:
        self.server.answers["/slow"] = Answer(body=render_video(), hold=self.hold, drip=True)

    def akool(self) -> None:
        self.begun, self.url = threading.Event(), self.server.serve("/a", b"", status=403)

        def refresh(job_id: str, url: str, deadline: Deadline) -> Refreshed:
            self.begun.set()
            self.hold.wait(30)
            return Refreshed(says=AkoolSays.NO_ROW)

        self.fetch.options["refresh"] = refresh

    def body_of_the_newer_url(self) -> None:
        self.body()
        self.url, newer = self.server.serve("/a", b"", status=403), self.server.url("/slow")
        self.fetch.options["refresh"] = lambda *_: Refreshed(says=AkoolSays.NEW_URL, url=newer)


TOO_LONG = "took too long: its time is over."
PHASES: dict[Callable[[Phase], None], str] = {
    Phase.resolving: f"The exchange with cdn.example {TOO_LONG}",
    Phase.head: f"The exchange with 127.0.0.1 {TOO_LONG}",
    Phase.head_behind_a_redirect: f"The exchange with 127.0.0.1 {TOO_LONG}",
    Phase.body: f"The exchange with 127.0.0.1 {TOO_LONG}",
    Phase.akool: "HTTP 403. Asking Akool for a new URL failed: the time for this video was over.",
    Phase.body_of_the_newer_url: f"The exchange with 127.0.0.1 {TOO_LONG}",
}


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__)
def test_the_time_for_one_file_holds_whatever_it_waits_for(
    phase: Callable[[Phase], None], fetch: Fetch, server: VideoServer
) -> None:
    hold = threading.Event()
    waits = Phase(server, fetch, hold)
    phase(waits)
    server.serve("/good", render_video())

    def release(outcome: Outcome) -> None:
        assert not hold.is_set() or outcome.job_id == "good"
        hold.set()
        fetch.hear(outcome)

    fetch(
        requested("slow", waits.url, expires_at_ms=1),
        requested("good", server.url("/good"), expires_at_ms=2),
        threads=1,
        clock=FlyingClock(lambda: waits.begun.is_set() and not hold.is_set()),
        seconds_per_file=60.0,
        low_speed=LowSpeedLimit(seconds=NEVER),
        on_outcome=release,
    )
    assert not server.gave_up
    assert fetch.failed("slow").error.endswith(PHASES[phase])
    assert fetch.stored("good")


def test_a_dead_host_keeps_nobody_waiting_and_is_left_alone_after_a_while(fetch: Fetch, server: VideoServer) -> None:
    fetch.options["policy"] = AddressPolicy(server.base_url, HOSTS, resolver=lambda *_: ["127.0.0.1"])
    hold = threading.Event()
    server.answers["/dead"] = Answer(body=render_video(), hold=hold)
    server.serve("/good", render_video())

    def url(host: str, path: str) -> str:
        return f"http://{host}:{server.port}/{path}"

    dead = [requested(f"dead{n}", url("dead.example", "dead"), expires_at_ms=1) for n in range(20)]
    good = [requested(f"good{n}", url("good.example", "good"), expires_at_ms=2) for n in range(10)]
    # No time passes before all of the others are there: the dead ones hang all the while.
    clock = FlyingClock(lambda: fetch.stored_so_far("good") == len(good))
    try:
        summary = fetch(*dead, *good, threads=4, clock=clock)
        assert not server.gave_up
    finally:
        hold.set()
    assert (summary.stored, summary.failed, summary.out_of_time) == (10, 5, False)
    assert summary.deferred == {"dead.example": 15}


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_host_that_answers_with_its_own_trouble_is_left_alone_too(
    status: int, fetch: Fetch, server: VideoServer
) -> None:
    url = server.serve("/a", b"", status=status)
    summary = fetch(*(requested(f"job{number}", url) for number in range(20)), threads=1)
    assert (summary.failed, summary.deferred) == (5, {"127.0.0.1": 15})


@pytest.mark.parametrize("answer", [Answer(status=404), Answer(status=400), Answer(body=b"<html>")])
def test_a_host_of_bad_videos_is_not_in_trouble(answer: Answer, fetch: Fetch, server: VideoServer) -> None:
    server.answers["/a"] = answer
    summary = fetch(*(requested(f"job{number}", server.url("/a")) for number in range(20)))
    assert (summary.failed, summary.deferred) == (20, {})
