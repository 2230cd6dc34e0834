from __future__ import annotations

import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from akool_dagster.base.clock import Deadline, SystemClock
from akool_dagster.storage import OsFiles, StorageError, StorageRoot
from akool_dagster.videos.fetch import (
    FetchSummary,
    Outcome,
    Progress,
)
from akool_dagster.videos.refresh import AkoolSays, Refreshed
from akool_dagster.videos.schedule import Failure
from tests.clock import FakeClock
from tests.integration.video_words import (
    DAY_MS,
    FOLDER,
    NEVER,
    Fetch,
    FlyingClock,
    files_below,
    held_clock,
    requested,
)
from tests.mp4 import render_video
from tests.object_store import ObjectStore
from tests.video_server import Answer, VideoServer

pytest_plugins = ["tests.integration.object_stores"]

pytestmark = pytest.mark.usefixtures("system_temporary_folder", "short_slices")


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


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_each_stored_file_has_the_served_bytes(
    kind: str, server: VideoServer, tmp_path: Path, object_store: ObjectStore
) -> None:
    root = StorageRoot(str(tmp_path / "root") if kind == "local" else object_store.url)
    fetch = Fetch(server, root)
    served = {f"job{seed}": render_video(seed % 3, audio=seed % 2 == 0) for seed in range(20)}
    summary = fetch(*(requested(job, server.serve(f"/{job}.mp4", body)) for job, body in served.items()))
    assert summary == FetchSummary(
        stored=20, failed=0, bytes=sum(len(body) for body in served.values()), out_of_time=False
    )
    for job, body in served.items():
        stored = fetch.stored(job)
        assert stored.path == f"{FOLDER}/{job}.mp4"
        assert root.read_bytes(stored.path) == body
        assert (stored.bytes, stored.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert (stored.facts.frames, stored.source_url) == (24, server.url(f"/{job}.mp4"))
    assert server.connections <= 8


def bad_answers() -> dict[str, Answer]:
    video = render_video(1, movflags="+faststart")
    return {
        "http403": Answer(status=403, body=b"<Error>AccessDenied</Error>"),
        "http404": Answer(status=404, body=b"gone"),
        "http500": Answer(status=500, body=b"sorry"),
        "html": Answer(body=b"<html>maintenance</html>" * 100, headers={"Content-Type": "text/html"}),
        "empty": Answer(),
        "short": Answer(body=video[:-1000], length=len(video)),
        "cut": Answer(body=video[: len(video) * 6 // 10]),
        "large": Answer(body=bytes(2_000_001)),
        "loop": Answer(status=302, headers={"Location": "/loop"}),
        "inner": Answer(status=302, headers={"Location": "https://169.254.169.254/latest/meta-data"}),
    }


RETRYABLE = {"http403", "http404", "http500", "html", "empty", "short", "cut"}


def test_bad_videos_never_stop_the_others_and_leave_nothing_but_what_was_refused(
    fetch: Fetch, server: VideoServer, root: StorageRoot
) -> None:
    answers = bad_answers()
    server.answers.update({f"/{job}": answer for job, answer in answers.items()})
    server.serve("/redirected", b"", status=302, headers={"Location": "/good"})
    body = render_video()
    server.serve("/good", body)
    jobs = ["good", *answers, "redirected"]
    summary = fetch(*(requested(job, server.url(f"/{job}")) for job in jobs), max_bytes=2_000_000)
    assert (summary.stored, summary.failed) == (2, len(answers))
    assert {job for job in answers if fetch.failed(job).retryable} == RETRYABLE
    assert {job for job in answers if fetch.failed(job).failure is Failure.FORBIDDEN} == {"http403"}
    assert {job for job in answers if fetch.failed(job).failure is Failure.GONE} == {"http404"}
    assert sorted(fetch.refreshed) == ["http403", "http404"]
    assert files_below(root) == [f"{FOLDER}/cut.unverified", f"{FOLDER}/good.mp4", f"{FOLDER}/redirected.mp4"]
    assert root.read_bytes(f"{FOLDER}/redirected.mp4") == body


def answering(url: str | None, says: AkoolSays = AkoolSays.NEW_URL) -> Callable[[str, str, Deadline], Refreshed]:
    return lambda job_id, known, deadline: Refreshed(says=says, url=url)


def test_an_expired_url_is_asked_for_again_once_and_the_new_one_is_used(fetch: Fetch, server: VideoServer) -> None:
    old, new = server.serve("/old", b"", status=403), server.serve("/new", render_video())
    asked = []

    def refresh(job_id: str, url: str, deadline: Deadline) -> Refreshed:
        asked.append((job_id, url, deadline.remaining() <= 60))
        return Refreshed(says=AkoolSays.NEW_URL, url=new)

    fetch(requested("job", old), refresh=refresh, seconds_per_file=60.0)
    stored = fetch.stored("job")
    assert stored.source_url == new
    assert stored.refreshed == Refreshed(says=AkoolSays.NEW_URL, url=new)
    assert (asked, server.count("/old"), server.count("/new")) == ([("job", old, True)], 1, 1)


def test_the_same_url_again_gets_one_more_try(fetch: Fetch, server: VideoServer) -> None:
    url = server.url("/a")
    server.answers["/a"] = lambda number: (
        Answer(body=render_video()) if number > 1 else Answer(status=404, body=b"not yet")
    )
    fetch(requested("job", url), refresh=answering(url, AkoolSays.SAME_URL))
    assert fetch.stored("job").source_url == url


@pytest.mark.parametrize(("status", "failure"), [(403, Failure.FORBIDDEN), (404, Failure.GONE), (410, Failure.GONE)])
def test_a_url_that_stays_expired_is_tried_twice_and_no_more(
    status: int, failure: Failure, fetch: Fetch, server: VideoServer
) -> None:
    url = server.serve("/a", b"", status=status)
    fetch(requested("job", url), refresh=answering(url, AkoolSays.SAME_URL))
    failed = fetch.failed("job")
    assert (failed.failure, failed.retryable, server.count("/a")) == (failure, True, 2)
    assert failed.error == f"127.0.0.1 answered HTTP {status}. Akool gives the same URL again."


def test_what_the_new_url_answers_is_what_counts(fetch: Fetch, server: VideoServer) -> None:
    old = server.serve("/old", b"", status=403)
    for job, url in {
        "gone": server.serve("/gone", b"", status=404),
        "refused": "https://10.0.0.1/private.mp4",
        "broken": server.serve("/broken", render_video()[:-1000]),
    }.items():
        fetch(requested(job, old), refresh=answering(url))
    failures = {job: fetch.failed(job).failure for job in fetch.outcomes}
    assert failures == {"gone": Failure.GONE, "refused": Failure.LASTING, "broken": Failure.PASSING}
    assert fetch.failed("gone").error.endswith("answered HTTP 404. That is the newest URL Akool gives.")
    assert fetch.failed("refused").host == "10.0.0.1"


@pytest.mark.parametrize("says", [AkoolSays.NO_URL, AkoolSays.NO_ROW, AkoolSays.FAILED, AkoolSays.UNKNOWN_ID])
def test_without_another_url_the_error_says_what_akool_said(says: AkoolSays, fetch: Fetch, server: VideoServer) -> None:
    fetch(requested("job", server.serve("/a", b"", status=410)), refresh=answering(None, says))
    failed = fetch.failed("job")
    assert failed.error == f"127.0.0.1 answered HTTP 410. {says.value}"
    assert (failed.refreshed, server.count("/a")) == (Refreshed(says=says), 1)


def test_a_refresh_that_fails_is_that_video_s_failure(fetch: Fetch, server: VideoServer) -> None:
    def refresh(job_id: str, url: str, deadline: Deadline) -> Refreshed:
        if job_id == "bug":
            raise RuntimeError("hunter2")
        return Refreshed(says=AkoolSays.NOTHING, trouble="Akool is busy.")

    server.serve("/a", b"", status=403)
    requests = [requested("busy", server.url("/a")), requested("bug", server.url("/a"))]
    fetch(*requests, requested("good", server.serve("/good", render_video())), refresh=refresh)
    assert "Asking Akool for a new URL failed: Akool is busy." in fetch.failed("busy").error
    assert fetch.failed("busy").failure is Failure.FORBIDDEN
    assert "RuntimeError" in fetch.failed("bug").error
    assert "hunter2" not in fetch.failed("bug").error
    assert fetch.stored("good")


def test_the_earliest_expiring_is_fetched_first(fetch: Fetch, server: VideoServer) -> None:
    hours = [5, 1, 4, 2, 3]
    for hour in hours:
        server.serve(f"/{hour}", render_video())
    fetch(*(requested(f"job{hour}", server.url(f"/{hour}"), expires_at_ms=hour) for hour in hours), threads=1)
    assert [path for path, _ in server.requests] == ["/1", "/2", "/3", "/4", "/5"]


def test_nothing_is_started_when_the_time_is_over(fetch: Fetch, server: VideoServer) -> None:
    url = server.serve("/a", render_video())
    summary = fetch(requested("job", url), time_budget=Deadline(FakeClock(), 0.0))
    assert summary == FetchSummary(stored=0, failed=0, bytes=0, out_of_time=True)
    assert server.requests == []


def test_what_runs_when_the_time_is_over_is_finished(fetch: Fetch, server: VideoServer) -> None:
    clock = FakeClock()
    url = server.serve("/a", render_video())

    def last_of_the_time(outcome: Outcome) -> None:
        clock.advance(301)
        fetch.hear(outcome)

    requests = [requested(f"job{number}", url) for number in range(10)]
    summary = fetch(*requests, threads=2, time_budget=Deadline(clock, 300.0), on_outcome=last_of_the_time)
    assert summary.out_of_time
    assert summary.stored == len(fetch.outcomes) == 2


def test_progress_is_told_at_its_pace_with_what_is_left(fetch: Fetch, server: VideoServer) -> None:
    hold = threading.Event()
    clock = held_clock(server, hold)
    body = render_video()
    server.serve("/good", body)
    server.answers["/slow"] = Answer(body=body, hold=hold)
    told: list[tuple[float, Progress]] = []

    def show(progress: Progress) -> None:
        told.append((clock.monotonic(), progress))
        if len(told) == 3:
            hold.set()

    fetch(
        requested("good", server.url("/good"), expires_at_ms=1),
        requested("slow", server.url("/slow"), expires_at_ms=2),
        threads=1,
        clock=clock,
        progress=show,
        progress_every=5.0,
        seconds_per_file=NEVER,
    )
    assert [moment for moment, _ in told] == [5.0, 10.0, 15.0]
    for moment, progress in told:
        assert (progress.done, progress.total) == (1, 2)
        assert progress.bytes >= len(body)
        assert progress.rate_bytes_per_s * moment == pytest.approx(progress.bytes)
        assert progress.remaining_seconds == moment


def test_a_full_disk_ends_the_fetch_with_path_and_cause_and_no_half_file(server: VideoServer, tmp_path: Path) -> None:
    class FullFile(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class FullDisk(OsFiles):
        def open(self, path: Path, mode: str) -> BinaryIO:
            return FullFile(path, mode)

    root = StorageRoot(str(tmp_path / "root"), files=FullDisk())
    fetch = Fetch(server, root)
    url = server.serve("/a", render_video())
    with pytest.raises(StorageError, match=f"{root.uri()}/{FOLDER}: No space left on device"):
        fetch(*(requested(f"job{number}", url) for number in range(20)))
    assert fetch.outcomes == {}
    assert files_below(root) == []


class Interrupted(BaseException):
    """Stands for Ctrl-C or a terminated run."""


class InterruptedClock(SystemClock):
    def __init__(self, ready: threading.Event) -> None:
        self._ready = ready

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if self._ready.is_set():
            raise Interrupted
        return super().wait(event, 0.01)


def interrupt_by_clock(fetch: Fetch, server: VideoServer) -> dict[str, Any]:
    return {"clock": InterruptedClock(server.sending)}


def interrupt_by_ledger(fetch: Fetch, server: VideoServer) -> dict[str, Any]:
    def fail(outcome: Outcome) -> None:
        server.sending.wait(30)
        raise Interrupted

    return {"on_outcome": fail}


def interrupt_by_progress(fetch: Fetch, server: VideoServer) -> dict[str, Any]:
    def fail(progress: Progress) -> None:
        raise Interrupted

    return {"clock": FlyingClock(server.sending.is_set), "progress": fail}


@pytest.mark.parametrize("interruption", [interrupt_by_clock, interrupt_by_ledger, interrupt_by_progress])
def test_an_interruption_ends_running_downloads_and_leaves_no_temporary_file(
    interruption: Callable[[Fetch, VideoServer], dict[str, Any]],
    fetch: Fetch,
    server: VideoServer,
    root: StorageRoot,
) -> None:
    hold = threading.Event()
    server.answers["/slow"] = Answer(body=render_video(), hold=hold)
    server.serve("/good", render_video())
    requests = [requested("good", server.url("/good"), expires_at_ms=1)]
    requests += [requested(f"slow{number}", server.url("/slow")) for number in range(20)]
    try:
        with pytest.raises(Interrupted):
            fetch(*requests, threads=4, **interruption(fetch, server))
        assert not any(thread.name.startswith("akool-video") for thread in threading.enumerate())
        assert not server.gave_up
    finally:
        hold.set()
    assert set(files_below(root)) <= {f"{FOLDER}/good.mp4"}


def test_a_video_lies_in_the_folder_of_its_partition_s_utc_day(fetch: Fetch, server: VideoServer) -> None:
    url = server.serve("/a", render_video())
    fetch(
        requested("last", url, partition_at_ms=20_000 * DAY_MS - 1),
        requested("first", url, partition_at_ms=20_000 * DAY_MS),
    )
    assert fetch.stored("last").path == "akool/videos/2024-10-03/last.mp4"
    assert fetch.stored("first").path == "akool/videos/2024-10-04/first.mp4"


def test_no_requests_are_a_quick_fetch(fetch: Fetch) -> None:
    assert fetch() == FetchSummary(stored=0, failed=0, bytes=0, out_of_time=False)
