"""Choose the video to fetch next, so that neither a dead host nor old failures keep other videos waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from akool_dagster.http.addresses import host_of
from akool_dagster.videos.store import VideoRequest

GIVE_UP_AFTER = 5
"""Downloads in a row that ended in a host's trouble, before its other videos wait for the next run."""


@dataclass
class _Host:
    fresh: deque[VideoRequest] = field(default_factory=deque)
    retries: deque[VideoRequest] = field(default_factory=deque)
    running: int = 0
    failures: int = 0
    proven: bool = False

    @property
    def waiting(self) -> int:
        return len(self.fresh) + len(self.retries)

    @property
    def given_up(self) -> bool:
        return self.failures >= GIVE_UP_AFTER


class FairQueue:
    """The waiting videos of one run. It decides, and does nothing else.

    The earliest-expiring video comes first, within three limits:

    - A host in trouble gets one thread, and none after `GIVE_UP_AFTER` failures in a row: its videos are deferred, and
      no attempt is counted.
    - A host that has not answered yet gets its share of the threads.
    - Videos that failed before and videos that did not begin by turns, the former on at most half of the threads.

    Example: ``while request := queue.take(): ...; queue.ended(request); queue.note(host, answers=True)``
    """

    def __init__(self, requests: Iterable[VideoRequest], threads: int) -> None:
        self._threads = threads
        self._hosts: dict[str, _Host] = {}
        self._running_retries = 0
        self._last_was_retry = False
        for request in sorted(requests, key=lambda request: request.expires_at_ms):
            host = self._hosts.setdefault(host_of(request.source_url), _Host())
            (host.retries if request.attempts else host.fresh).append(request)

    @property
    def waiting(self) -> int:
        """How many videos could still be taken in this run."""
        return sum(host.waiting for host in self._hosts.values() if not host.given_up)

    @property
    def deferred(self) -> Mapping[str, int]:
        """How many videos wait for the next run, by the host that is in trouble."""
        return {name: host.waiting for name, host in self._hosts.items() if host.given_up and host.waiting}

    def take(self) -> VideoRequest | None:
        """Return the video to begin now; None when no video may be begun before another video has ended."""
        live = [host for host in self._hosts.values() if not host.given_up and (host.waiting or host.running)]
        share = -(-self._threads // max(1, len(live)))
        free = [host for host in live if host.waiting and host.running < self._limit(host, share)]
        fresh = [host for host in free if host.fresh]
        retries = [host for host in free if host.retries]
        if fresh and (self._last_was_retry or self._running_retries >= max(1, self._threads // 2)):
            retries = []
        queues = [(host, host.fresh) for host in fresh] + [(host, host.retries) for host in retries]
        if not queues:
            return None
        host, queue = min(queues, key=lambda pair: pair[1][0].expires_at_ms)
        request = queue.popleft()
        host.running += 1
        self._running_retries += bool(request.attempts)
        self._last_was_retry = bool(request.attempts)
        return request

    def ended(self, request: VideoRequest) -> None:
        """Count a taken video as not under way any more."""
        self._hosts[host_of(request.source_url)].running -= 1
        self._running_retries -= bool(request.attempts)

    def note(self, host: str, *, answers: bool) -> None:
        """Count an answer or a failure of a host, which may be the host of a newer URL."""
        noted = self._hosts.setdefault(host, _Host())
        noted.proven = answers
        noted.failures = 0 if answers else noted.failures + 1

    def _limit(self, host: _Host, share: int) -> int:
        if host.failures:
            return 1
        return self._threads if host.proven else share
