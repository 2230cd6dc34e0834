"""The HTTP paths that Akool and its CDN have: credentials, faults, journal, and the answer to each request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from akool_dagster.base.clock import Clock
from akool_dagster.emulator.answers import Answer, file_answer, gateway_error, redirection
from akool_dagster.emulator.fault_kinds import LOOP, MOVED, Endpoint
from akool_dagster.emulator.faults import Fault
from akool_dagster.emulator.journal import Journal, RecordedRequest
from akool_dagster.emulator.mp4 import VideoCache
from akool_dagster.emulator.service import AkoolService, requested_ids
from akool_dagster.emulator.wire import FaultyResponse

_AUTH_HEADERS = frozenset({b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"})


@dataclass(kw_only=True)
class Call:
    """One request on its way through the emulator."""

    request: Request
    endpoint: Endpoint | None = None
    payload: object = None
    job_ids: tuple[str, ...] = ()
    fault: Fault | None = None
    """What happens to the call as a whole."""
    faults: list[str] = field(default_factory=list)
    """The names of all faults that had a part in the answer."""


class AkoolRoutes:
    """Takes requests from Starlette and asks the service for the answers. Nothing that Akool lacks is here."""

    def __init__(self, service: AkoolService, journal: Journal, videos: VideoCache, clock: Clock) -> None:
        self._service = service
        self._faults = service.faults
        self._journal = journal
        self._videos = videos
        self._clock = clock
        paths: tuple[tuple[str, str, Endpoint, Callable[[Call], Awaitable[Answer]]], ...] = (
            ("/api/open/v4/image2Video/resultsByIds", "POST", Endpoint.RESULTS, self._results),
            ("/api/open/v3/getToken", "POST", Endpoint.TOKEN, self._token),
            ("/api/open/v3/faceswap/quota/info", "GET", Endpoint.CREDIT, self._quota),
            ("/cdn/{file_name}", "GET", Endpoint.CDN, self._file),
        )
        self.routes = [
            Route(path, partial(self._respond, endpoint, handler), methods=[method])
            for path, method, endpoint, handler in paths
        ]

    async def refuse_unknown(self, request: Request, error: Exception) -> Response:
        """Answer what no path takes, as a proxy does, and note it in the journal."""
        http_status, reason = 500, "Internal Server Error"
        if isinstance(error, HTTPException):
            http_status, reason = error.status_code, error.detail
        answer = gateway_error(http_status, reason)
        self._record(Call(request=request), answer)
        return _response(answer)

    async def _respond(
        self, endpoint: Endpoint, handler: Callable[[Call], Awaitable[Answer]], request: Request
    ) -> Response:
        call = Call(request=request, endpoint=endpoint)
        if request.method == "POST":
            call.payload = _parsed(await request.body())
        call.job_ids = self._asked_ids(call)
        if endpoint is not Endpoint.CDN or f"?{request.url.query}" not in (MOVED, LOOP):
            call.fault = self._faults.take_for_call(endpoint, call.job_ids)
        answer = await self._answer(call, handler)
        self._record(call, answer)
        fault, response = call.fault, _response(answer)
        if fault is None or fault.kind.wire is None:
            return response
        numbers = {name: value for name, value in fault.options.items() if isinstance(value, int | float)}
        numbers["seconds"] = self._faults.draw_seconds(fault)
        return FaultyResponse(response, fault.kind.wire, numbers, self._clock)

    async def _answer(self, call: Call, handler: Callable[[Call], Awaitable[Answer]]) -> Answer:
        fault = call.fault
        if fault is None:
            return await handler(call)
        if not fault.kind.is_of_one_job:
            call.faults.append(fault.kind.name)
        if fault.answer is not None:
            return fault.answer
        if fault.kind.goes_unanswered:
            return Answer(http_status=None)
        answer = await handler(call)
        return answer if fault.kind.change is None else fault.kind.change(answer)

    def _asked_ids(self, call: Call) -> tuple[str, ...]:
        if call.endpoint is Endpoint.CDN:
            job_id = self._service.job_of_file(call.request.path_params["file_name"])
            return () if job_id is None else (job_id,)
        return requested_ids(call.payload) if call.endpoint is Endpoint.RESULTS else ()

    def _record(self, call: Call, answer: Answer) -> None:
        secrets = [secret.encode() for secret in self._service.known_secrets]
        self._journal.record(
            RecordedRequest(
                method=call.request.method,
                path=call.request.url.path,
                endpoint=str(call.endpoint or ""),
                time_ms=self._clock.now_ms(),
                job_ids=call.job_ids,
                auth_headers=tuple(
                    name.decode("latin-1")
                    for name, value in call.request.headers.raw
                    if name in _AUTH_HEADERS or any(secret in value for secret in secrets)
                ),
                http_status=answer.http_status,
                code=answer.code,
                faults=tuple(call.faults),
            )
        )

    def _refusal(self, call: Call) -> Answer | None:
        headers = call.request.headers
        return self._service.refuse(headers.get("authorization"), headers.get("x-api-key"))

    async def _results(self, call: Call) -> Answer:
        if (refusal := self._refusal(call)) is not None:
            return refusal
        answer, happened = self._service.results(call.payload, call.fault)
        call.faults += happened
        return answer

    async def _token(self, call: Call) -> Answer:
        return self._service.issue_token(call.payload)

    async def _quota(self, call: Call) -> Answer:
        return self._refusal(call) or self._service.quota()

    async def _file(self, call: Call) -> Answer:
        request = call.request
        if f"?{request.url.query}" == LOOP:
            return redirection(LOOP)
        found = self._service.video(request.path_params["file_name"])
        if isinstance(found, Answer):
            return found
        job, modified_ms = found
        if call.fault is not None and call.fault.kind.video is not None:
            job = call.fault.kind.video(job)
        # Rendering takes tens of milliseconds, which the other connections need not wait for.
        rendered = self._videos.ready(job)
        video = self._videos.get(job) if rendered else await asyncio.to_thread(self._videos.get, job)
        return file_answer(
            video,
            modified_ms=modified_ms,
            range_header=request.headers.get("range") if request.method == "GET" else None,
            if_range=request.headers.get("if-range"),
        )


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.http_status or 200, dict(answer.headers), answer.media_type)
