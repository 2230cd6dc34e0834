"""Akool without HTTP: jobs, tokens and credit, and the answer to each request."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from akool_dagster.base.clock import Clock
from akool_dagster.emulator.answers import Answer, access_denied, envelope, storage_error
from akool_dagster.emulator.faults import Fault, FaultSwitch
from akool_dagster.emulator.jobs import ENDED, EmulatedJob, JobStatus, Row


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
    """None for the jobs that were there before the service began."""
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
        faults: FaultSwitch,
        speed: float = 1.0,
        max_ids_per_call: int | None = None,
    ) -> None:
        if speed <= 0:
            raise ValueError(f"The speed is above 0, not {speed}.")
        self.address = ""
        """The URL that the service is reached at; empty until it is."""
        self.credit = 1234.5
        """The account's credits as ``quota/info`` answers them. Jobs don't change it."""
        self.max_ids_per_call = max_ids_per_call
        """How many ids one call may ask for before it is answered 1003; None for any number."""
        self.faults = faults
        """Which faults are on."""
        self._account = account
        self._clock = clock
        self._speed = speed
        self._wall_ms = clock.now_ms()
        self._monotonic = clock.monotonic()
        self._begun_at: float | None = None
        self._lock = threading.Lock()
        self._jobs: dict[str, EmulatedJob] = {}
        self._progress: dict[str, _Progress] = {}
        self._files: dict[str, str] = {}
        self._tokens: set[str] = set()

    @property
    def jobs(self) -> Mapping[str, EmulatedJob]:
        """The jobs by id: a live, read-only view."""
        return MappingProxyType(self._jobs)

    @property
    def known_secrets(self) -> tuple[str, ...]:
        """Every value that must reach no other host."""
        return (self._account.api_key, self._account.client_secret, *self._tokens)

    def now_ms(self) -> float:
        """Return the emulator's own time: the wall time at its making plus what has passed since."""
        return self._wall_ms + (self._clock.monotonic() - self._monotonic) * 1000

    def begin(self) -> None:
        """Start the time of the jobs that were given before; only the first call counts."""
        with self._lock:
            if self._begun_at is None:
                self._begun_at = self.now_ms()

    def add_job(self, job: EmulatedJob) -> None:
        """Take one more job on; its time starts now. Raises ``ValueError`` for an id that is there already."""
        with self._lock:
            if job.job_id in self._jobs:
                raise ValueError(f"The emulator has a job {job.job_id} already.")
            position = len(self._jobs)
            uploaded_ms = job.create_time + round(job.work_seconds * 1000) - 1300
            file_name = f"{uploaded_ms}-{position:04d}.mp4"
            now = None if self._begun_at is None else self.now_ms()
            started = now if job.available_from_ms is None else job.available_from_ms
            self._files[file_name] = job.job_id
            self._progress[job.job_id] = _Progress(position, file_name, started)
            self._jobs[job.job_id] = job

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
        account = self._account
        if (payload.get("clientId"), payload.get("clientSecret")) != (account.client_id, account.client_secret):
            return envelope(1101, "Invalid authorization")
        token = f"emulated.{secrets.token_hex(32)}"
        with self._lock:
            self._tokens.add(token)
        return envelope(1000, "OK", token=token)

    def expire_token(self) -> None:
        """Make the bearer tokens issued so far invalid."""
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
        if not job_ids or len(job_ids) > (self.max_ids_per_call or len(job_ids)):
            return envelope(1003, "Failed to get results"), ()
        rows: list[Row] = []
        happened: list[str] = []
        with self._lock:
            known = {job_id for job_id in map(str.lower, job_ids) if job_id in self._jobs}
            for job_id in sorted(known, key=lambda job_id: self._progress[job_id].position):
                self._progress[job_id].polls += 1
                row = self._row(job_id)
                hit = self._fault_of(job_id, fault, completed=row.get("status") == JobStatus.COMPLETED)
                if hit is None:
                    rows.append(row)
                    continue
                happened.append(hit.kind.name)
                if hit.kind.job is not None:
                    self._jobs[job_id] = hit.kind.job(self._jobs[job_id])
                    row = self._row(job_id)
                rows.extend((row,) if hit.kind.row is None else hit.kind.row(row))
            if fault is not None and fault.kind.rows is not None:
                rows = list(fault.kind.rows(rows, self._jobs.keys() - known, self.faults.chance))
        return envelope(1000, "OK", data={"result": rows}), tuple(happened)

    def _fault_of(self, job_id: str, fault: Fault | None, *, completed: bool) -> Fault | None:
        """Return what happens to one job: the fault of this call, or one that is on for jobs."""
        if fault is not None and fault.happens_to(job_id, completed=completed):
            return fault
        return self.faults.take_for_job(job_id, completed=completed)

    def _row(self, job_id: str) -> Row:
        job, progress = self._jobs[job_id], self._progress[job_id]
        status, settled_ms = self._state(job, progress)
        return job.row(status, video_url=f"{self.address}/cdn/{progress.file_name}", settled_ms=settled_ms)

    def _state(self, job: EmulatedJob, progress: _Progress) -> tuple[JobStatus, int | None]:
        """Return the status that the last poll showed or would show now, and when the job ended."""
        now = self.now_ms()
        started = progress.started_ms or self._begun_at or now
        elapsed = (now - started) / 1000 * self._speed
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
                status, settled_ms = self._state(job, self._progress[job.job_id])
                if status is JobStatus.COMPLETED and settled_ms is not None:
                    modified_ms = job.update_time(settled_ms)
                    alive = self.now_ms() < modified_ms + job.url_lifetime_seconds * 1000
                    return (job, modified_ms) if alive else access_denied()
        return storage_error(404, "NoSuchKey", "The specified key does not exist.")


def requested_ids(payload: object) -> tuple[str, ...]:
    """Return the ids of a ``resultsByIds`` body: one string with commas under ``_ids``, anything else has none."""
    ids = payload.get("_ids") if isinstance(payload, dict) else None
    if not isinstance(ids, str) or not ids.strip():
        return ()
    return tuple(ids.split(","))
