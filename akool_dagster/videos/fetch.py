"""Many videos at a time: download, verify, publish. The caller's thread coordinates and hears every outcome."""

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
from akool_dagster.videos.download import LARGEST_BYTES
from akool_dagster.videos.fairness import FairQueue
from akool_dagster.videos.refresh import Refreshed
from akool_dagster.videos.space import RESERVE_BYTES, DiskSpace, NoRoomError, Room
from akool_dagster.videos.store import FailedVideo, Outcome, StoredVideo, VideoRequest, VideoStorer

__all__ = [
    "FailedVideo",
    "FetchLimits",
    "FetchSummary",
    "Outcome",
    "Progress",
    "StoredVideo",
    "VideoRequest",
    "fetch_videos",
]

TICK_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class FetchLimits:
    """What one fetch may use."""

    threads: int = 8
    seconds_per_file: float = 600.0
    """From the first look at the URL to the last byte, Akool's newer URL included; publishing excepted."""
    max_bytes: int = LARGEST_BYTES
    low_speed: LowSpeedLimit = field(default_factory=LowSpeedLimit)
    reserve_bytes: int = RESERVE_BYTES
    """What stays free on the disk; see `DiskSpace`."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a fetch is."""

    done: int
    total: int
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
    progress: Callable[[Progress], None] = lambda _: None,
    progress_every: float = 5.0,
) -> FetchSummary:
    """Store each requested video below ``folder`` and tell ``on_outcome``, in the caller's thread, how it went.

    The order is that of `FairQueue`. A file that is in the storage root already is verified before anything is
    downloaded, and taken when it is a whole video. ``refresh(job_id, url, deadline)`` asks Akool for the row again,
    once for a video whose URL is over; ``before_publish`` runs right before a file is shown. Both are called from
    the workers.
    After the time budget nothing new is started. A download that stalls or takes too long is interrupted.
    Memory: about 2 MiB a thread (during an upload, two of its parts), whatever the files' sizes and number.

    One video's failure is an outcome. When the disk is full nothing new is started, what runs is finished, and
    `StorageFullError` raised; a video too large for what is free is passed over, and the same raised in the end.
    Those videos have no outcome. Any other `StorageError`, which would hit all of them, and whatever the callbacks
    raise end the fetch: the running downloads are interrupted within about a second, or the connect timeout of one
    that is being connected; their temporary files are removed.
    """
    queue = FairQueue(requests, limits.threads)
    meter = _Meter(clock, progress, progress_every, len(requests))
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
        coordinator = _Coordinator(storer, queue, DiskSpace(root, limits.reserve_bytes), on_outcome, clock, limits)
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
    if coordinator.no_room is not None:
        raise coordinator.no_room
    return FetchSummary(
        stored=coordinator.stored,
        failed=coordinator.failed,
        bytes=coordinator.stored_bytes,
        out_of_time=queue.waiting > 0,
        deferred=queue.deferred,
    )


@dataclass(frozen=True, kw_only=True)
class _Running:
    request: VideoRequest
    room: Room


class _Coordinator:
    """Starts downloads and hands over what became of them, all in one thread."""

    def __init__(
        self,
        storer: VideoStorer,
        queue: FairQueue,
        space: DiskSpace,
        on_outcome: Callable[[Outcome], None],
        clock: Clock,
        limits: FetchLimits,
    ) -> None:
        self.stored = 0
        self.failed = 0
        self.stored_bytes = 0
        self.no_room: StorageFullError | None = None
        """Why some video had no room on the disk; the first such reason."""
        self.stop = threading.Event()
        """Set it to interrupt everything that is still running."""
        self._storer = storer
        self._queue = queue
        self._space = space
        self._on_outcome = on_outcome
        self._clock = clock
        self._limits = limits
        self._full = False
        self._running: dict[Future[Outcome], _Running] = {}
        self._ended_bytes = 0
        self._wake = threading.Event()

    @property
    def running(self) -> int:
        """How many videos are under way."""
        return len(self._running)

    @property
    def received_bytes(self) -> int:
        """Bytes received so far, of unfinished videos too."""
        return self._ended_bytes + sum(task.room.received for task in self._running.values())

    def start_next(self, pool: ThreadPoolExecutor) -> bool:
        """Hand a video to a free thread; return False when none is free, or no video may be begun now."""
        if self._full or self.running >= self._limits.threads or not self._queue.waiting:
            return False
        shortage = self._space.shortage()
        if shortage is not None:
            if not self.running:  # nothing will be given back
                self._note_full(shortage)
            return False
        request = self._queue.take()
        if request is None:
            return False
        task = _Running(request=request, room=self._space.open())
        bounds = Bounds(
            deadline=Deadline(self._clock, self._limits.seconds_per_file),
            low_speed=self._limits.low_speed,
            stop=self.stop,
        )
        future = pool.submit(self._storer.fetch, request, bounds, task.room)
        self._running[future] = task
        future.add_done_callback(lambda _: self._wake.set())
        return True

    def collect(self) -> None:
        """Wait a moment and hand over what is finished.

        Raises the first error that concerns more than one video, after the other outcomes are handed over.
        """
        self._clock.wait(self._wake, TICK_SECONDS)
        self._wake.clear()
        fatal: BaseException | None = None
        for future in [future for future in self._running if future.done()]:
            task = self._running.pop(future)
            self._retire(task)
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
        self.no_room = self.no_room or error
        self._full = self._full or not isinstance(error, NoRoomError)

    def _retire(self, task: _Running) -> None:
        self._queue.ended(task.request)
        self._ended_bytes += task.room.received
        self._space.close(task.room)

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
    """Turns counts into `Progress`, at a pace for people."""

    def __init__(self, clock: Clock, show: Callable[[Progress], None], every_seconds: float, total: int) -> None:
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
                remaining_seconds=(self._total - done) * elapsed / done if done else None,
            )
        )
