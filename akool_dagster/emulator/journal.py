"""What was asked of the emulator and what it answered, so that tests can tell."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

JOURNAL_LENGTH = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRequest:
    """One request and its answer.

    ``endpoint`` is empty for a path the emulator does not have. ``job_ids`` are the ids asked for, as sent, or the
    job whose file was asked for. ``auth_headers`` names the headers that authorise, and any other that held one
    of the emulator's secrets: names only, never values. ``http_status`` is None when the connection was reset,
    ``code`` is None when the answer was no envelope. ``faults`` names the faults that had a part in the answer.
    """

    method: str
    path: str
    endpoint: str
    time_ms: int
    job_ids: tuple[str, ...]
    auth_headers: tuple[str, ...]
    http_status: int | None
    code: int | None
    faults: tuple[str, ...]


class Journal:
    """The latest requests, oldest first; each is there before its answer leaves. Safe for many threads."""

    def __init__(self, length: int = JOURNAL_LENGTH) -> None:
        self._lock = threading.Lock()
        self._requests: deque[RecordedRequest] = deque(maxlen=length)

    @property
    def requests(self) -> tuple[RecordedRequest, ...]:
        """The latest requests, up to the journal's length (100,000)."""
        with self._lock:
            return tuple(self._requests)

    def calls(self, endpoint: str) -> tuple[RecordedRequest, ...]:
        """Return the requests to one endpoint, such as ``resultsByIds`` or ``cdn``."""
        return tuple(request for request in self.requests if request.endpoint == endpoint)

    def record(self, request: RecordedRequest) -> None:
        """Add a request; the oldest one goes when the journal is full."""
        with self._lock:
            self._requests.append(request)

    def clear(self) -> None:
        """Forget every request."""
        with self._lock:
            self._requests.clear()
