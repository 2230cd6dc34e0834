"""Akool without HTTP: jobs, tokens and credit, and the answer to each request."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from akool_dagster.base.clock import Clock
from akool_dagster.emulator.answers import Answer, access_denied, envelope, storage_error
from akool_dagster.emulator.faults import Fault, FaultSwitch
from akool_dagster.emulator.jobs import ENDED, EmulatedJob, JobStatus, Row

_BAD_REQUEST = envelope(1003, "Failed to get results")


@dataclass(frozen=True, kw_only=True)
class Account:
    """The one account the emulator knows."""

    api_key: str = field(repr=False)
    client_id: str = field(repr=False)
    client_secret: str = field(repr=False)


@dataclass(slots=True)
class _Progress:
    """How far one job has come."""

    position: int
    file_name: str
    started_ms: float | None
    polls: int = 0
    settled_ms: int | None = None


class AkoolService:
    """The state behind the endpoints. Safe for many threads; time moves by the clock's monotonic seconds.

    A step of the wall clock therefore moves no job: Akool's clock is not that of its customer.
    """

    def __init__(
        self,
        account: Account,
        *,
        clock: Clock,
        speed: float = 1.0,
        max_ids_per_call: int | None = None,
        faults: FaultSwitch | None = None,
    ) -> None:
        if speed <= 0:
            raise ValueError(f"The speed is above 0, not {speed}.")
        self.base_url = ""
        self.credit = 1234.5
        self._account = account
        self._clock = clock
        self._speed = speed
        self.max_ids_per_call = max_ids_per_call
        self._faults = FaultSwitch() if faults is None else faults
        self._wall_ms = clock.now_ms()
        self._monotonic = clock.monotonic()
        self._begun = False
        self._lock = threading.Lock()
        self._jobs: dict[str, EmulatedJob] = {}
        self._progress: dict[str, _Progress] = {}
        self._files: dict[str, str] = {}
        self._tokens: set[str] = set()
        self._tokens_issued = 0

    @property
    def jobs(self) -> Mapping[str, EmulatedJob]:
        """The jobs by id: a live, read-only view."""
        return MappingProxyType(self._jobs)

    @property
    def max_ids_per_call(self) -> int | None:
        """How many ids one call may ask for; None for any number."""
        return self._max_ids_per_call

    @max_ids_per_call.setter
    def max_ids_per_call(self, most: int | None) -> None:
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
            raise ValueError(f"A call may ask for at least 1 id, not {most!r}.")
        self._max_ids_per_call = most

    @property
    def secrets(self) -> tuple[str, ...]:
        """Every value that must reach no other host."""
        return (self._account.api_key, self._account.client_secret, *self._tokens)

    def now_ms(self) -> float:
        """Return the emulator's own time: the wall time at its making plus what has passed since."""
        return self._wall_ms + (self._clock.monotonic() - self._monotonic) * 1000

    def begin(self) -> None:
        """Start the time of the jobs that were given before; only the first call counts."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
            now = self.now_ms()
            for progress in self._progress.values():
                if progress.started_ms is None:
                    progress.started_ms = now

    def add_jobs(self, jobs: Iterable[EmulatedJob]) -> None:
        """Take jobs on. Raises ``ValueError`` for an id that is there already."""
        with self._lock:
            now = self.now_ms() if self._begun else None
            for job in jobs:
                if job.job_id in self._jobs:
                    raise ValueError(f"The emulator has a job {job.job_id} already.")
                file_name = self._free_file_name(job)
                self._files[file_name] = job.job_id
                started = now if job.available_from_ms is None else job.available_from_ms
                self._progress[job.job_id] = _Progress(len(self._jobs), file_name, started)
                self._jobs[job.job_id] = job

    def _free_file_name(self, job: EmulatedJob) -> str:
        moment = job.create_time + round(job.work_seconds * 1000) - 1300
        digits = int(job.job_id[-6:], 16) % 10_000
        while (name := f"{moment}-{digits:04d}.mp4") in self._files:
            digits += 1
        return name

    def refuse(self, authorization: str | None, api_key: str | None) -> Answer | None:
        """Return the answer to wrong credentials, or None for right ones. ``Authorization`` wins, as documented."""
        if authorization:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() == "bearer" and token.strip() in self._tokens:
                return None
            return envelope(1101, "Invalid authorization or the token has expired")
        if not api_key:
            return envelope(1102, "Authorization header cannot be empty")
        return None if api_key == self._account.api_key else envelope(1109, "Account does not exist")

    def issue_token(self, payload: object) -> Answer:
        """Answer ``getToken``; the token is beside the code, not under ``data``."""
        if not isinstance(payload, dict):
            return envelope(1003, "Parameter error")
        if (payload.get("clientId"), payload.get("clientSecret")) != (
            self._account.client_id,
            self._account.client_secret,
        ):
            return envelope(1101, "Invalid authorization")
        with self._lock:
            self._tokens_issued += 1
            issue = f"{self._account.client_secret}:{self._tokens_issued}"
            token = f"emulated.{hashlib.sha256(issue.encode()).hexdigest()}"
            self._tokens.add(token)
        return envelope(1000, "OK", token=token)

    def expire_tokens(self) -> None:
        """Make every token issued so far invalid."""
        with self._lock:
            self._tokens = set()

    def quota(self) -> Answer:
        """Answer ``quota/info``: the credits of the whole account."""
        return envelope(1000, "OK", data={"credit": self.credit})

    def results(self, payload: object, fault: Fault | None = None) -> tuple[Answer, tuple[str, ...]]:
        """Answer ``resultsByIds``; return with it the names of the faults that happened to single jobs.

        Rows come once for each known id, in the order the jobs were added and not in that of the request, but for
        the ``fault`` of this call.
        """
        job_ids = requested_ids(payload)
        most = self._max_ids_per_call
        if not job_ids or (most is not None and len(job_ids) > most):
            return _BAD_REQUEST, ()
        rows: list[Row] = []
        happened: list[str] = []
        with self._lock:
            now = self.now_ms()
            known = {job_id for job_id in map(str.lower, job_ids) if job_id in self._jobs}
            for job_id in sorted(known, key=lambda job_id: self._progress[job_id].position):
                row, hit = self._polled(job_id, now, fault)
                if hit is not None:
                    happened.append(hit.kind.name)
                rows.extend((row,) if hit is None or hit.kind.row is None else hit.kind.row(row))
            if fault is not None and fault.kind.rows is not None:
                rows = list(fault.kind.rows(rows, self._jobs.keys() - known, self._faults.chance))
        return envelope(1000, "OK", data={"result": rows}), tuple(happened)

    def _polled(self, job_id: str, now: float, fault: Fault | None) -> tuple[Row, Fault | None]:
        """Move the job on and return its row, with the fault that happens to it in this call."""
        self._progress[job_id].polls += 1
        row = self._row(job_id, now)
        completed = row.get("status") == JobStatus.COMPLETED
        hit = fault if fault is not None and fault.happens_to(job_id, completed=completed) else None
        hit = hit or self._faults.take_for_job(job_id, completed=completed)
        if hit is not None and hit.kind.job is not None:
            self._jobs[job_id] = hit.kind.job(self._jobs[job_id])
            row = self._row(job_id, now)
        return row, hit

    def _row(self, job_id: str, now: float) -> Row:
        job, progress = self._jobs[job_id], self._progress[job_id]
        status, settled_ms = self._state(job, progress, now)
        url = f"{self.base_url}/cdn/{progress.file_name}"
        return job.row(status, video_url=url, settled_ms=settled_ms)

    def _state(self, job: EmulatedJob, progress: _Progress, now: float) -> tuple[JobStatus, int | None]:
        """Return the status that the last poll showed or would show now, and when the job ended."""
        elapsed = 0.0 if progress.started_ms is None else (now - progress.started_ms) / 1000 * self._speed
        status = job.status(elapsed_seconds=elapsed, earlier_polls=progress.polls - 1)
        if status in ENDED and progress.settled_ms is None:
            overdue_seconds = 0.0 if job.moves_by_polls else (elapsed - job.work_seconds) / self._speed
            progress.settled_ms = round(now - overdue_seconds * 1000)
        return status, progress.settled_ms

    def job_of_file(self, file_name: str) -> str | None:
        """Return the id of the job whose video has that name on the CDN."""
        return self._files.get(file_name)

    def video(self, file_name: str) -> tuple[EmulatedJob, int] | Answer:
        """Return the job and the epoch milliseconds of its file, or the CDN's refusal."""
        with self._lock:
            job = self._jobs.get(self._files.get(file_name, ""))
            if job is not None:
                now = self.now_ms()
                status, settled_ms = self._state(job, self._progress[job.job_id], now)
                if status is JobStatus.COMPLETED and settled_ms is not None:
                    modified_ms = job.update_time(settled_ms)
                    if now >= modified_ms + job.url_lifetime_seconds * 1000:
                        return access_denied()
                    return job, modified_ms
        return storage_error(404, "NoSuchKey", "The specified key does not exist.")


def requested_ids(payload: object) -> tuple[str, ...]:
    """Return the ids of a ``resultsByIds`` body: one string with commas under ``_ids``, anything else has none."""
    ids = payload.get("_ids") if isinstance(payload, dict) else None
    if not isinstance(ids, str) or not ids.strip():
        return ()
    return tuple(ids.split(","))
