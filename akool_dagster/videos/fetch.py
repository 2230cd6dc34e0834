"""Many videos at a time: download, verify, publish. The caller's thread coordinates and hears every outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from akool_dagster.clock import Clock, Deadline
from akool_dagster.storage import StorageFullError, StorageRoot
from akool_dagster.videos.addresses import AddressPolicy, host_of
from akool_dagster.videos.download import LARGEST_BYTES
from akool_dagster.videos.fairness import FairQueue
from akool_dagster.videos.refresh import Refreshed
from akool_dagster.videos.space import RESERVE_BYTES, DiskSpace, NoRoomError, Room
from akool_dagster.videos.stall import MinimumPace, PaceWatch
from akool_dagster.videos.store import FailedVideo, Outcome, StoredVideo, VideoRequest, VideoStorer
from akool_dagster.videos.transport import VideoTransport

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
    minimum_pace: MinimumPace = field(default_factory=MinimumPace)
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
    raise end the fetch: the running downloads are interrupted, their temporary files removed.
    """
    storer = VideoStorer(
        root, folder, refresh=refresh, before_publish=before_publish, clock=clock, max_bytes=limits.max_bytes
    )
    queue = FairQueue(requests, limits.threads)
    coordinator = _Coordinator(storer, policy, queue, DiskSpace(root, limits.reserve_bytes), on_outcome, clock, limits)
    meter = _Meter(clock, progress, progress_every, len(requests))
    with closing(coordinator), ThreadPoolExecutor(limits.threads, thread_name_prefix="akool-video") as pool:
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
            coordinator.abort()
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
    transport: VideoTransport
    deadline: Deadline
    pace: PaceWatch
    room: Room


class _Coordinator:
    """Starts downloads, watches their time and pace and hands over what became of them, all in one thread."""

    def __init__(
        self,
        storer: VideoStorer,
        policy: AddressPolicy,
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
        self._storer = storer
        self._policy = policy
        self._queue = queue
        self._space = space
        self._on_outcome = on_outcome
        self._clock = clock
        self._limits = limits
        self._full = False
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
        task = _Running(
            request=request,
            transport=self._idle.pop() if self._idle else VideoTransport(self._policy),
            deadline=Deadline(self._clock, self._limits.seconds_per_file),
            pace=PaceWatch(self._limits.minimum_pace, self._clock.monotonic()),
            room=self._space.open(),
        )
        future = pool.submit(self._storer.fetch, request, task.transport, task.deadline, task.room)
        self._running[future] = task
        future.add_done_callback(lambda _: self._wake.set())
        return True

    def collect(self) -> None:
        """Wait a moment, hand over what is finished and interrupt what stalls or takes too long.

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
        for task in self._running.values():
            self._watch(task)

    def _watch(self, task: _Running) -> None:
        transport, minimum = task.transport, self._limits.minimum_pace
        if task.deadline.expired():
            transport.abort(f"took longer than {self._limits.seconds_per_file:.0f} s")
        elif task.pace.is_stalled(
            self._clock.monotonic(),
            exchange=transport.exchange,
            waiting=transport.waiting,
            received=transport.received_bytes,
        ):
            transport.abort(
                f"stalled: it had less than {minimum.bytes_per_s:.0f} bytes/s for {minimum.over_seconds:.0f} s"
            )

    def _note_full(self, error: StorageFullError) -> None:
        self.no_room = self.no_room or error
        self._full = self._full or not isinstance(error, NoRoomError)

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

    def _retire(self, task: _Running) -> None:
        self._queue.ended(task.request)
        self._space.close(task.room)
        if task.transport.aborted:
            self._closed_bytes += task.transport.received_bytes
            task.transport.close()
        else:
            self._idle.append(task.transport)

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
