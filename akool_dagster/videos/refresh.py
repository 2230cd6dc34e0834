"""Asking Akool anew for a video's URL when the known one is over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from akool_dagster.api.client import AkoolClient
from akool_dagster.api.errors import AkoolContentError
from akool_dagster.api.models import ResultsAnswer
from akool_dagster.base.clock import Clock, Deadline
from akool_dagster.errors import AkoolDagsterError

REFRESH_SECONDS = 60.0
"""The most that one asking may take, of the time that the file has."""
GIVE_UP_AFTER = 3
UNKNOWN_ID_CODES = frozenset({1008, 1014})
"""Akool's codes for content and for a resource that does not exist."""


class AkoolSays(Enum):
    """What Akool answered when it was asked for a video's URL again; the value is how a person is told."""

    NOTHING = "Akool could not be asked for a new URL."
    SAME_URL = "Akool gives the same URL again."
    NEW_URL = "That is the newest URL Akool gives."
    NO_URL = "Akool gives no URL for it any more."
    NO_ROW = "Akool gives no URL for it: it does not return the job."
    FAILED = "Akool says now that the job failed."
    UNKNOWN_ID = "Akool says that it does not know the id."


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """The outcome of one asking."""

    says: AkoolSays
    url: str | None = None
    """To be tried next."""
    expires_at_ms: int | None = None
    """When that URL dies."""
    trouble: str = ""
    """Why there was no answer."""

    @property
    def remark(self) -> str:
        """What to add to the video's error."""
        return f"Asking Akool for a new URL failed: {self.trouble}" if self.trouble else self.says.value


class UrlRefresher:
    """Asks for one id at a time, whatever the number of threads, and no more once Akool failed three times running.

    The ids then go without an answer until the next run, as they would after a minute of waiting each.
    """

    def __init__(self, new_client: Callable[[], AkoolClient], clock: Clock) -> None:
        """``new_client`` is called when the first URL must be asked for, and only then."""
        self._new_client = new_client
        self._clock = clock
        self._client: AkoolClient | None = None
        self._lock = threading.Lock()
        self._failures = 0

    @property
    def calls(self) -> int:
        """How many HTTP requests were sent."""
        return 0 if self._client is None else self._client.calls

    def close(self) -> None:
        """Close the connection to Akool."""
        if self._client is not None:
            self._client.close()

    def ask(self, job_id: str, known_url: str, deadline: Deadline) -> Refreshed:
        """Return what Akool says of a job; an Akool that does not answer is an outcome, too."""
        if not self._lock.acquire(timeout=min(deadline.remaining(), REFRESH_SECONDS)):
            return Refreshed(says=AkoolSays.NOTHING, trouble="other videos were asked for all the time.")
        try:
            if self._failures >= GIVE_UP_AFTER:
                return Refreshed(says=AkoolSays.NOTHING, trouble=f"it failed {self._failures} times in this run.")
            return self._ask(job_id, known_url, Deadline(self._clock, min(deadline.remaining(), REFRESH_SECONDS)))
        finally:
            self._lock.release()

    def _ask(self, job_id: str, known_url: str, deadline: Deadline) -> Refreshed:
        try:
            if self._client is None:
                self._client = self._new_client()
            answer = self._client.results([job_id], deadline=deadline)
        except AkoolContentError as error:
            self._failures = 0
            if error.code in UNKNOWN_ID_CODES:
                return Refreshed(says=AkoolSays.UNKNOWN_ID)
            return Refreshed(says=AkoolSays.NOTHING, trouble=str(error))
        except AkoolDagsterError as error:
            self._failures += 1
            return Refreshed(says=AkoolSays.NOTHING, trouble=str(error))
        self._failures = 0
        return read_answer(answer, job_id, known_url, self._clock.now_ms())


def read_answer(answer: ResultsAnswer, job_id: str, known_url: str, now_ms: int) -> Refreshed:
    """Return what an answer says of a job. Rows under other ids say nothing."""
    if job_id in answer.unparsable:
        return Refreshed(says=AkoolSays.NOTHING, trouble=f"its row cannot be read: {answer.unparsable[job_id]}.")
    row = answer.rows.get(job_id)
    if row is None:
        return Refreshed(says=AkoolSays.NO_ROW)
    if row.status == 4:
        return Refreshed(says=AkoolSays.FAILED)
    if row.status != 3 or not row.has_usable_video_url:
        return Refreshed(says=AkoolSays.NO_URL)
    says = AkoolSays.SAME_URL if row.video_url == known_url else AkoolSays.NEW_URL
    return Refreshed(says=says, url=row.video_url, expires_at_ms=row.expires_ms(now_ms))
