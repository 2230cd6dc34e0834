"""The emulator as an HTTP server of its own thread: routes, faults on the wire, start and stop."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from akool_dagster.base.clock import Clock, SystemClock
from akool_dagster.emulator.admin import admin_routes
from akool_dagster.emulator.answers import Answer, file_answer, gateway_error, redirection
from akool_dagster.emulator.errors import EmulatorError
from akool_dagster.emulator.fault_kinds import NO_ANSWER, Endpoint
from akool_dagster.emulator.fault_table import LOOP, MOVED
from akool_dagster.emulator.faults import Fault, FaultSwitch
from akool_dagster.emulator.jobs import EmulatedJob
from akool_dagster.emulator.journal import Journal, RecordedRequest
from akool_dagster.emulator.mp4 import VideoCache
from akool_dagster.emulator.service import Account, AkoolService, requested_ids
from akool_dagster.emulator.wire import FaultyResponse, Holds, Server, listen

#: Real seconds: the server's thread lives in them, whatever clock its jobs live by.
STOP_SECONDS = 10.0
_AUTH_HEADERS = frozenset({b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"})

Handler = Callable[[Request, object, Fault | None], Awaitable[tuple[Answer, tuple[str, ...]]]]


class AkoolEmulator:
    """A local Akool with its CDN, for tests and demonstrations. Use it as a context manager, or start and stop it.

    It listens on ``port``, 0 for any free one, and again on the same after a restart, so that an outage can be
    played. Job times run by ``clock``, ``speed`` times as fast. It answers nothing the documentation does not
    describe: no creating, deleting or listing of jobs. Below ``/emulator/`` are paths that Akool does not have: to
    switch faults and to read the journal of an emulator in another process.
    """

    def __init__(
        self,
        api_key: str = "emulator-key",
        client_id: str = "emulator-client",
        client_secret: str = "emulator-secret",  # noqa: S107 - it guards nothing
        seed: int = 0,
        jobs: Sequence[EmulatedJob] = (),
        clock: Clock | None = None,
        speed: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 0,
        max_ids_per_call: int | None = None,
    ) -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._faults = FaultSwitch(seed)
        self._journal = Journal()
        self._service = AkoolService(
            Account(api_key=api_key, client_id=client_id, client_secret=client_secret),
            clock=self._clock,
            speed=speed,
            max_ids_per_call=max_ids_per_call,
            faults=self._faults,
        )
        self._service.add_jobs(jobs)
        self._videos = VideoCache(seed)
        self._host = host
        self._port = port
        self._holds = Holds(self._clock)
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """Where the API is; the CDN is below it at ``/cdn/``. Raises `EmulatorError` before the first start."""
        if not self._service.base_url:
            raise EmulatorError("The emulator has no address before it is started.")
        return self._service.base_url

    @property
    def jobs(self) -> Mapping[str, EmulatedJob]:
        """The jobs by id: a live, read-only view."""
        return self._service.jobs

    @property
    def journal(self) -> Journal:
        """What was asked and answered."""
        return self._journal

    @property
    def faults(self) -> FaultSwitch:
        """Which faults are on."""
        return self._faults

    @property
    def credit(self) -> float:
        """The account's credits as ``quota/info`` answers them. Jobs don't change it."""
        return self._service.credit

    @credit.setter
    def credit(self, credits_left: float) -> None:
        self._service.credit = credits_left

    @property
    def max_ids_per_call(self) -> int | None:
        """How many ids one call may ask for before it is answered 1003; None for any number."""
        return self._service.max_ids_per_call

    @max_ids_per_call.setter
    def max_ids_per_call(self, most: int | None) -> None:
        self._service.max_ids_per_call = most

    def add_job(self, job: EmulatedJob) -> None:
        """Take one more job on; its time starts now. Raises ``ValueError`` for an id that is there already."""
        self._service.add_jobs((job,))

    def video_bytes(self, job_id: str) -> bytes:
        """Return the bytes the CDN serves for a job that completes. Raises ``KeyError`` for an unknown id."""
        return self._videos.get(self.jobs[job_id]).content

    def expire_token(self) -> None:
        """Make the bearer tokens issued so far invalid."""
        self._service.expire_tokens()

    def start(self) -> None:
        """Listen and serve in a thread. Raises `EmulatorError` when running already or when the port is taken."""
        if self._thread is not None:
            raise EmulatorError(f"The emulator is running at {self.base_url} already.")
        listener = listen(self._host, self._port)
        self._port = listener.getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._service.base_url = f"http://{host}:{self._port}"
        self._holds = Holds(self._clock)
        self._server = Server(self._application(), self._holds)
        self._thread = threading.Thread(
            target=self._server.run_until_stopped, args=(listener,), name="akool-emulator", daemon=True
        )
        self._thread.start()
        if not self._server.wait_until_serving():
            self.stop()
            raise EmulatorError("The emulator's server did not start; its log says why.")
        self._service.begin()

    def stop(self) -> None:
        """Close every connection and end the thread. Jobs, journal and faults stay; stopping twice is harmless."""
        if self._server is None or self._thread is None:
            return
        self._server.stop()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            raise EmulatorError("The emulator's server did not stop.")
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _application(self) -> Starlette:
        routes = (
            ("/api/open/v4/image2Video/resultsByIds", "POST", Endpoint.RESULTS, self._results),
            ("/api/open/v3/getToken", "POST", Endpoint.TOKEN, self._token),
            ("/api/open/v3/faceswap/quota/info", "GET", Endpoint.CREDIT, self._quota),
            ("/cdn/{file_name}", "GET", Endpoint.CDN, self._file),
        )
        return Starlette(
            routes=[
                Route(path, partial(self._respond, endpoint, handler), methods=[method])
                for path, method, endpoint, handler in routes
            ]
            + admin_routes(self._faults, self._journal, self._service),
            exception_handlers={HTTPException: self._no_such_route},
        )

    async def _respond(self, endpoint: Endpoint, handler: Handler, request: Request) -> Response:
        payload = _parsed(await request.body()) if request.method == "POST" else None
        job_ids = self._asked_ids(endpoint, request, payload)
        redirected = endpoint is Endpoint.CDN and f"?{request.url.query}" in (MOVED, LOOP)
        fault = None if redirected else self._faults.take_for_call(endpoint, job_ids)
        answer, happened = await self._answer(handler, request, payload, fault)
        self._record(request, endpoint, job_ids, answer, fault, happened)
        if fault is None or fault.kind.wire is None:
            return _response(answer)
        server = self._server
        connection = None if server is None else server.connection_of(tuple(request.scope["client"]))
        options = {**fault.options, "seconds": self._faults.draw_seconds(fault)}
        return FaultyResponse(answer, fault.kind.wire, options, connection, self._holds)

    async def _answer(
        self, handler: Handler, request: Request, payload: object, fault: Fault | None
    ) -> tuple[Answer, tuple[str, ...]]:
        if fault is not None and fault.answer is not None:
            return fault.answer, ()
        if fault is not None and fault.kind.wire in NO_ANSWER:
            return Answer(), ()
        answer, happened = await handler(request, payload, fault)
        if fault is not None and fault.kind.change is not None:
            answer = fault.kind.change(answer)
        return answer, happened

    def _asked_ids(self, endpoint: Endpoint, request: Request, payload: object) -> tuple[str, ...]:
        if endpoint is Endpoint.CDN:
            job_id = self._service.job_of_file(request.path_params["file_name"])
            return () if job_id is None else (job_id,)
        return requested_ids(payload) if endpoint is Endpoint.RESULTS else ()

    def _record(
        self,
        request: Request,
        endpoint: str,
        job_ids: tuple[str, ...],
        answer: Answer,
        fault: Fault | None,
        happened: tuple[str, ...],
    ) -> None:
        unanswered = fault is not None and fault.kind.wire in NO_ANSWER
        secrets = [secret.encode() for secret in self._service.secrets]
        self._journal.record(
            RecordedRequest(
                method=request.method,
                path=request.url.path,
                endpoint=str(endpoint),
                time_ms=self._clock.now_ms(),
                job_ids=job_ids,
                auth_headers=tuple(
                    name.decode("latin-1")
                    for name, value in request.headers.raw
                    if name in _AUTH_HEADERS or any(secret in value for secret in secrets)
                ),
                http_status=None if unanswered else answer.http_status,
                code=answer.code,
                faults=(() if fault is None or fault.kind.is_of_one_job else (fault.kind.name,)) + happened,
            )
        )

    def _refusal(self, request: Request) -> Answer | None:
        return self._service.refuse(request.headers.get("authorization"), request.headers.get("x-api-key"))

    async def _results(self, request: Request, payload: object, fault: Fault | None) -> tuple[Answer, tuple[str, ...]]:
        refusal = self._refusal(request)
        return self._service.results(payload, fault) if refusal is None else (refusal, ())

    async def _token(self, request: Request, payload: object, fault: Fault | None) -> tuple[Answer, tuple[str, ...]]:
        return self._service.issue_token(payload), ()

    async def _quota(self, request: Request, payload: object, fault: Fault | None) -> tuple[Answer, tuple[str, ...]]:
        return self._refusal(request) or self._service.quota(), ()

    async def _file(self, request: Request, payload: object, fault: Fault | None) -> tuple[Answer, tuple[str, ...]]:
        if f"?{request.url.query}" == LOOP:
            return redirection(LOOP), ()
        found = self._service.video(request.path_params["file_name"])
        if isinstance(found, Answer):
            return found, ()
        job, modified_ms = found
        if fault is not None and fault.kind.video is not None:
            job = fault.kind.video(job)
        # Rendering takes tens of milliseconds, which the other connections need not wait for.
        rendered = self._videos.ready(job)
        video = self._videos.get(job) if rendered else await asyncio.to_thread(self._videos.get, job)
        answer = file_answer(
            video,
            modified_ms=modified_ms,
            range_header=request.headers.get("range") if request.method == "GET" else None,
            if_range=request.headers.get("if-range"),
        )
        return answer, ()

    async def _no_such_route(self, request: Request, error: Exception) -> Response:
        http_status, reason = 500, "Internal Server Error"
        if isinstance(error, HTTPException):
            http_status, reason = error.status_code, error.detail
        answer = gateway_error(http_status, reason)
        self._record(request, "", (), answer, None, ())
        return _response(answer)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.http_status, dict(answer.headers), answer.media_type)
