"""Fetch many videos at a time. The caller's thread coordinates the downloads and gets every outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.http.addresses import AddressPolicy, host_of
from akool_dagster.http.bounds import Bounds, LowSpeedLimit
from akool_dagster.http.transport import HttpTransport
from akool_dagster.storage import StorageFullError, StorageRoot
from akool_dagster.videos.disk import DiskReservation, DiskReservations, DiskTooSmallError
from akool_dagster.videos.fairness import FairQueue
from akool_dagster.videos.refresh import Refreshed
from akool_dagster.videos.store import FailedVideo, Outcome, StoredVideo, VideoRequest, VideoStorer

TICK_SECONDS = 0.5
PROGRESS_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one fetch may use."""

    threads: int = 8
    seconds_per_file: float = 600.0
    """From the first look at the URL to the last byte, Akool's newer URL included; publishing excepted."""
    max_bytes: int = 2 << 30
    low_speed: LowSpeedLimit = field(default_factory=LowSpeedLimit)
    reserve_bytes: int = 64 << 20
    """What stays free on the disk; see `DiskReservations`."""


@dataclass(frozen=True, kw_only=True)
class FetchSummary:
    """What a fetch did."""

    stored: int
    failed: int
    bytes: int
    """Of the stored videos."""
    out_of_time: bool
    """Whether the time budget ended before every request was started that could be."""
    deferred: Mapping[str, int] = field(default_factory=dict)
    """How many were not started because of their host's trouble, by host."""


def fetch_videos(
    requests: Sequence[VideoRequest],
    *,
    root: StorageRoot,
    folder: str,
    policy: AddressPolicy,
    time_budget: Deadline,
    refresh: Callable[[str, str, Deadline], Refreshed],
    on_outcome: Callable[[Outcome], None],
    clock: Clock,
    limits: FetchLimits = FetchLimits(),
    before_publish: Callable[[], None] = lambda: None,
    progress: Callable[[str], None] = lambda _: None,
) -> FetchSummary:
    """Store each requested video below ``folder`` and call ``on_outcome`` with how it went, in the caller's thread.

    The order is that of `FairQueue`. A file that is in the storage root already is verified before anything is
    downloaded, and taken when it is a whole video. ``refresh(job_id, url, deadline)`` asks Akool for the row again,
    once for a video whose URL is over; ``before_publish`` runs right before a file is shown. Both are called from
    the workers. ``progress`` gets a line for people every few seconds, in the caller's thread.
    After the time budget nothing new is started. A download that stalls or takes too long is interrupted.
    Memory: about 2 MiB a thread (during an upload, two of its parts), whatever the files' sizes and number.

    One video's failure is an outcome. When the disk is full nothing new is started, what runs is finished, and
    `StorageFullError` raised; a video too large for what is free is passed over, and the same raised in the end.
    Those videos have no outcome. Any other `StorageError`, which would hit all of them, and whatever the callbacks
    raise end the fetch: the running downloads are interrupted within about a second, or the connect timeout of one
    that is being connected; their temporary files are removed.
    """
    queue = FairQueue(requests, limits.threads)
    meter = _Meter(clock, progress, len(requests))
    with (
        closing(HttpTransport(policy, connections=limits.threads)) as http,
        ThreadPoolExecutor(limits.threads, thread_name_prefix="akool-video") as pool,
    ):
        storer = VideoStorer(
            root,
            folder,
            http=http,
            refresh=refresh,
            before_publish=before_publish,
            clock=clock,
            max_bytes=limits.max_bytes,
        )
        disk = DiskReservations(root, limits.reserve_bytes)
        coordinator = _Coordinator(storer, queue, disk, on_outcome, clock, limits)
        try:
            while True:
                while not time_budget.expired() and coordinator.start_next(pool):
                    pass
                if not coordinator.running:
                    break
                coordinator.collect()
                meter.show(coordinator.stored + coordinator.failed, coordinator.received_bytes)
        finally:
            # Before the pool waits for its threads, or an interrupted fetch would first finish its downloads.
            coordinator.stop.set()
    if coordinator.shortage is not None:
        raise coordinator.shortage
    return FetchSummary(
        stored=coordinator.stored,
        failed=coordinator.failed,
        bytes=coordinator.stored_bytes,
        out_of_time=queue.waiting > 0,
        deferred=queue.deferred,
    )


class _Coordinator:
    """Starts downloads and hands over their outcomes, all in one thread."""

    def __init__(
        self,
        storer: VideoStorer,
        queue: FairQueue,
        disk: DiskReservations,
        on_outcome: Callable[[Outcome], None],
        clock: Clock,
        limits: FetchLimits,
    ) -> None:
        self.stored = 0
        self.failed = 0
        self.stored_bytes = 0
        self.shortage: StorageFullError | None = None
        """The first reason why a video did not fit on the disk."""
        self.stop = threading.Event()
        """Set it to interrupt everything that is still running."""
        self._storer = storer
        self._queue = queue
        self._disk = disk
        self._on_outcome = on_outcome
        self._clock = clock
        self._limits = limits
        self._full = False
        self._running: dict[Future[Outcome], tuple[VideoRequest, DiskReservation]] = {}
        self._ended_bytes = 0
        self._wake = threading.Event()

    @property
    def running(self) -> int:
        """How many videos are under way."""
        return len(self._running)

    @property
    def received_bytes(self) -> int:
        """Bytes received so far, of unfinished videos too."""
        return self._ended_bytes + sum(reservation.written for _, reservation in self._running.values())

    def start_next(self, pool: ThreadPoolExecutor) -> bool:
        """Hand a video to a free thread; return False when no thread is free, or no video may be begun now."""
        if self._full or self.running >= self._limits.threads or not self._queue.waiting:
            return False
        shortage = self._disk.shortage()
        if shortage is not None:
            if not self.running:  # nothing will be given back
                self._note_full(shortage)
            return False
        request = self._queue.take()
        if request is None:
            return False
        reservation = self._disk.open()
        bounds = Bounds(
            deadline=Deadline(self._clock, self._limits.seconds_per_file),
            low_speed=self._limits.low_speed,
            stop=self.stop,
        )
        future = pool.submit(self._storer.fetch, request, bounds, reservation)
        self._running[future] = (request, reservation)
        future.add_done_callback(lambda _: self._wake.set())
        return True

    def collect(self) -> None:
        """Wait for at most `TICK_SECONDS` and hand over the outcomes of what is finished.

        Raises the first error that concerns more than one video, after the other outcomes are handed over.
        """
        self._clock.wait(self._wake, TICK_SECONDS)
        self._wake.clear()
        fatal: BaseException | None = None
        for future in [future for future in self._running if future.done()]:
            request, reservation = self._running.pop(future)
            self._queue.ended(request)
            self._ended_bytes += reservation.written
            self._disk.close(reservation)
            error = future.exception()
            if error is None:
                self._hand_over(future.result())
            elif isinstance(error, StorageFullError):
                self._note_full(error)
            else:
                fatal = fatal or error
        if fatal is not None:
            raise fatal

    def _note_full(self, error: StorageFullError) -> None:
        self.shortage = self.shortage or error
        self._full = self._full or not isinstance(error, DiskTooSmallError)

    def _hand_over(self, outcome: Outcome) -> None:
        match outcome:
            case StoredVideo():
                self.stored += 1
                self.stored_bytes += outcome.bytes
                if outcome.downloaded:
                    self._queue.note(host_of(outcome.source_url), answers=True)
            case FailedVideo():
                self.failed += 1
                if outcome.host_answers is not None:
                    self._queue.note(outcome.host, answers=outcome.host_answers)
        self._on_outcome(outcome)


class _Meter:
    """Tells people, every few seconds, how far a fetch is."""

    def __init__(self, clock: Clock, show: Callable[[str], None], total: int) -> None:
        self._clock = clock
        self._show = show
        self._total = total
        self._started = self._shown = clock.monotonic()

    def show(self, done: int, received_bytes: int) -> None:
        """Show a line when it is time to. Bytes of unfinished files count, too."""
        now = self._clock.monotonic()
        if now - self._shown < PROGRESS_SECONDS:
            return
        self._shown = now
        elapsed, megabytes = now - self._started, received_bytes / 1e6
        line = f"{done} of {self._total} videos, {megabytes:.1f} MB, {megabytes / elapsed:.1f} MB/s"
        remaining = f", about {(self._total - done) * elapsed / done:.0f} s remaining" if done else ""
        self._show(line + remaining)
