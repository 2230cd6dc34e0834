"""Many videos at a time: download, verify, publish. The caller's thread coordinates and hears every outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from akool_dagster.clock import Clock, Deadline
from akool_dagster.storage import StorageRoot
from akool_dagster.videos.addresses import AddressPolicy
from akool_dagster.videos.download import LARGEST_BYTES
from akool_dagster.videos.store import FailedVideo, Outcome, StoredVideo, VideoRequest, VideoStorer
from akool_dagster.videos.transport import VideoTransport

__all__ = [
    "FailedVideo",
    "FetchSummary",
    "Outcome",
    "Progress",
    "StoredVideo",
    "VideoRequest",
    "fetch_videos",
]

TICK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a fetch is."""

    done: int
    total: int | None
    bytes: int
    """Received so far, of unfinished files too."""
    rate_bytes_per_s: float
    remaining_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What a fetch did."""

    stored: int
    failed: int
    bytes: int
    """Of the stored videos."""
    out_of_time: bool
    """Whether the time budget ended before every request was started."""


def fetch_videos(
    requests: Iterable[VideoRequest],
    *,
    root: StorageRoot,
    folder: str,
    policy: AddressPolicy,
    time_budget: Deadline,
    refresh_url: Callable[[str], str | None],
    on_outcome: Callable[[Outcome], None],
    clock: Clock,
    progress: Callable[[Progress], None] = lambda _: None,
    progress_every: float = 5.0,
    threads: int = 8,
    seconds_per_file: float = 600.0,
    max_bytes: int = LARGEST_BYTES,
    total: int | None = None,
) -> FetchSummary:
    """Store each requested video below ``folder`` and tell ``on_outcome``, in the caller's thread, how it went.

    A sequence is taken earliest-expiring first, any other iterable in its own order and only as far as threads
    are free. An existing file is replaced: only bytes that were just verified are known to be those served.
    ``refresh_url(job_id)`` asks Akool for the row again; it is called from the workers, one at a time, once for
    a video whose URL is over, and returns the URL to try or None.
    After the time budget nothing new is started; a file has ``seconds_per_file`` (its upload excepted) of its
    own. Memory: about 2 MiB a thread (during an upload, two of its parts), whatever the files' sizes and number.

    One video's failure is an outcome. `StorageError`, which would hit all of them, and whatever the callbacks
    raise end the fetch: the running downloads are interrupted, their temporary files removed.
    """
    if isinstance(requests, Sequence):
        total = len(requests) if total is None else total
        requests = sorted(requests, key=lambda request: request.expires_at_ms)
    storer = VideoStorer(root, folder, refresh_url, clock, max_bytes)
    coordinator = _Coordinator(storer, policy, on_outcome, clock, seconds_per_file)
    meter = _Meter(clock, progress, progress_every, total)
    waiting = iter(requests)
    upcoming = next(waiting, None)
    with closing(coordinator), ThreadPoolExecutor(threads, thread_name_prefix="akool-video") as pool:
        try:
            while coordinator.running or (upcoming is not None and not time_budget.expired()):
                while upcoming is not None and coordinator.running < threads and not time_budget.expired():
                    coordinator.start(pool, upcoming)
                    upcoming = next(waiting, None)
                coordinator.collect()
                meter.show(coordinator.stored + coordinator.failed, coordinator.received_bytes)
        finally:
            # Before the pool waits for its threads, or an interrupted fetch would first finish its downloads.
            coordinator.abort()
    return FetchSummary(
        stored=coordinator.stored,
        failed=coordinator.failed,
        bytes=coordinator.stored_bytes,
        out_of_time=upcoming is not None,
    )


@dataclass(frozen=True, kw_only=True)
class _Running:
    transport: VideoTransport
    deadline: Deadline


class _Coordinator:
    """Starts downloads, watches their deadlines and hands over what became of them, all in one thread."""

    def __init__(
        self,
        storer: VideoStorer,
        policy: AddressPolicy,
        on_outcome: Callable[[Outcome], None],
        clock: Clock,
        seconds_per_file: float,
    ) -> None:
        self.stored = 0
        self.failed = 0
        self.stored_bytes = 0
        self._storer = storer
        self._policy = policy
        self._on_outcome = on_outcome
        self._clock = clock
        self._seconds_per_file = seconds_per_file
        self._running: dict[Future[Outcome], _Running] = {}
        self._idle: list[VideoTransport] = []
        self._closed_bytes = 0
        self._wake = threading.Event()

    @property
    def running(self) -> int:
        """How many videos are under way."""
        return len(self._running)

    @property
    def received_bytes(self) -> int:
        """Bytes received so far by all transports."""
        return self._closed_bytes + sum(transport.received_bytes for transport in self._transports())

    def start(self, pool: ThreadPoolExecutor, request: VideoRequest) -> None:
        """Hand a video to a free thread."""
        self._storer.clean(request)
        transport = self._idle.pop() if self._idle else VideoTransport(self._policy)
        deadline = Deadline(self._clock, self._seconds_per_file)
        future = pool.submit(self._storer.fetch, request, transport, deadline)
        self._running[future] = _Running(transport=transport, deadline=deadline)
        future.add_done_callback(lambda _: self._wake.set())

    def collect(self) -> None:
        """Wait a moment, hand over what is finished and interrupt what takes too long.

        Raises the first error that concerns more than one video, after the other outcomes are handed over.
        """
        self._clock.wait(self._wake, TICK_SECONDS)
        self._wake.clear()
        fatal: BaseException | None = None
        for future in [future for future in self._running if future.done()]:
            self._retire(self._running.pop(future).transport)
            error = future.exception()
            fatal = fatal or error
            if error is None:
                self._hand_over(future.result())
        if fatal is not None:
            raise fatal
        for task in self._running.values():
            if task.deadline.expired():
                task.transport.abort()

    def abort(self) -> None:
        """Interrupt everything that is still running."""
        for task in self._running.values():
            task.transport.abort()

    def close(self) -> None:
        """Close every connection; no thread may be running."""
        for transport in self._transports():
            transport.close()

    def _transports(self) -> list[VideoTransport]:
        return [*self._idle, *(task.transport for task in self._running.values())]

    def _retire(self, transport: VideoTransport) -> None:
        if transport.aborted:
            self._closed_bytes += transport.received_bytes
            transport.close()
        else:
            self._idle.append(transport)

    def _hand_over(self, outcome: Outcome) -> None:
        if isinstance(outcome, StoredVideo):
            self.stored += 1
            self.stored_bytes += outcome.bytes
        else:
            self.failed += 1
        self._on_outcome(outcome)


class _Meter:
    """Turns counts into `Progress`, at a pace for people."""

    def __init__(self, clock: Clock, show: Callable[[Progress], None], every_seconds: float, total: int | None) -> None:
        self._clock = clock
        self._show = show
        self._every_seconds = every_seconds
        self._total = total
        self._started = self._shown = clock.monotonic()

    def show(self, done: int, received_bytes: int) -> None:
        """Report when it is time to."""
        now = self._clock.monotonic()
        if now - self._shown < self._every_seconds:
            return
        self._shown = now
        elapsed = now - self._started
        self._show(
            Progress(
                done=done,
                total=self._total,
                bytes=received_bytes,
                rate_bytes_per_s=received_bytes / elapsed,
                remaining_seconds=(self._total - done) * elapsed / done if self._total and done else None,
            )
        )
