"""An Akool for poll passes without HTTP: says what a test's script says, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from akool_dagster.api.errors import AkoolContentError, AkoolDeadlineError, AkoolError
from akool_dagster.api.models import ResultsAnswer, parse_results
from akool_dagster.base.clock import Deadline
from tests.clock import FakeClock

FIRST_SECOND = 1_759_990_000
"""Before the start of `tests.clock.FakeClock`, so that ids of this second are not from the future."""


def job_id(number: int, second: int = FIRST_SECOND) -> str:
    """Return an id as Akool makes them: creation second, then something unique."""
    return f"{second:08x}{number:016x}"


def row(identifier: str, status: object = 3, **fields: object) -> dict[str, object]:
    """Return a raw row as ``resultsByIds`` has it."""
    created = FIRST_SECOND * 1000
    told: dict[str, object] = {"_id": identifier, "status": status, "create_time": created, "update_time": created + 60}
    if status == 3:
        told |= {"video_url": f"https://cdn.example/{identifier}.mp4", "video_duration": 5.0}
    return told | fields


Hook = Callable[[int, Sequence[str]], AkoolError | BaseException | None]


class ScriptedApi:
    """Holds rows by id; an id in ``poison`` makes each call that asks for it fail with that error.

    ``before`` sees the number of each call (from 1) and its ids, and may return an error to raise instead of answering.
    """

    def __init__(
        self,
        rows: Mapping[str, Mapping[str, object]],
        *,
        poison: Mapping[str, AkoolError] | None = None,
        before: Hook | None = None,
    ) -> None:
        self.rows = rows
        self.poison = poison or {}
        self.before = before
        self.asked: list[tuple[str, ...]] = []
        self.at_once = 0
        """The most calls that were under way at the same time."""
        self._under_way = 0
        self._lock = threading.Lock()

    @property
    def calls(self) -> int:
        return len(self.asked)

    def results(self, ids: Sequence[str], *, deadline: Deadline | None = None) -> ResultsAnswer:
        assert deadline is not None, "a call outside the tick's deadline"
        with self._lock:
            self.asked.append(tuple(ids))
            number = self.calls
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
        try:
            return self._answer(number, ids)
        finally:
            with self._lock:
                self._under_way -= 1

    def _answer(self, number: int, ids: Sequence[str]) -> ResultsAnswer:
        error = None if self.before is None else self.before(number, ids)
        for identifier in ids:
            error = error or self.poison.get(identifier)
        if error is not None:
            raise error
        rows: list[object] = [self.rows[identifier] for identifier in reversed(ids) if identifier in self.rows]
        rows.append(row("f" * 24))  # which nobody asked for
        return parse_results({"code": 1000, "data": {"result": rows}}, ids)


class HangingApi(ScriptedApi):
    """Gives no answer to a call that asks for an id in ``hangs``: each takes the time that it was given."""

    def __init__(self, rows: Mapping[str, Mapping[str, object]], clock: FakeClock, hangs: Sequence[str]) -> None:
        super().__init__(rows)
        self.clock = clock
        self.hangs = set(hangs)

    def results(self, ids: Sequence[str], *, deadline: Deadline | None = None) -> ResultsAnswer:
        if self.hangs.isdisjoint(ids):
            return super().results(ids, deadline=deadline)
        assert deadline is not None
        self.asked.append(tuple(ids))
        self.clock.advance(deadline.remaining())
        raise AkoolDeadlineError("The time for this call ran out.")


def refusal(code: int = 1008) -> AkoolContentError:
    return AkoolContentError(f"Akool answered {code}.", code=code)
