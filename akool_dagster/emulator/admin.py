"""The paths below ``/emulator/``, which Akool does not have: faults, journal and limits of a running emulator."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from akool_dagster.emulator.fault_descriptions import describe, switch_on
from akool_dagster.emulator.journal import Journal
from akool_dagster.emulator.service import AkoolService

_MOST_IDS = TypeAdapter[int | None](Annotated[int, Field(ge=1, strict=True)] | None)


def admin_routes(service: AkoolService, journal: Journal) -> list[Route]:
    """Return the routes. Whatever they cannot understand is answered 400 with ``{"error": sentence}``."""
    faults = service.faults

    async def show_faults(request: Request) -> Response:
        shown = [describe(source, faults.times_left(source)) for source in faults.active]
        return JSONResponse({"faults": shown})

    async def add_fault(request: Request) -> Response:
        source = switch_on(faults, await _body(request))
        return JSONResponse(describe(source, faults.times_left(source)), 201)

    async def remove_faults(request: Request) -> Response:
        wanted = request.query_params.get("id")
        if wanted is None:
            faults.clear()
            return Response(status_code=204)
        for source in faults.active:
            if str(source.number) == wanted:
                faults.remove(source)
                return Response(status_code=204)
        raise ValueError(f"No fault with the id {wanted!r} is on.")

    async def show_journal(request: Request) -> Response:
        endpoint = request.query_params.get("endpoint")
        requests = journal.requests if endpoint is None else journal.calls(endpoint)
        return JSONResponse({"requests": [asdict(request) for request in requests]})

    async def clear_journal(request: Request) -> Response:
        journal.clear()
        return Response(status_code=204)

    async def show_settings(request: Request) -> Response:
        return JSONResponse({"max_ids_per_call": service.max_ids_per_call})

    async def change_settings(request: Request) -> Response:
        body = await _body(request)
        try:
            if body.keys() != {"max_ids_per_call"}:
                raise ValueError
            service.max_ids_per_call = _MOST_IDS.validate_python(body["max_ids_per_call"])
        except ValueError:
            sentence = "The only setting is 'max_ids_per_call': a number from 1, or null for no limit."
            raise ValueError(sentence) from None
        return await show_settings(request)

    return [
        _route("faults", "GET", show_faults),
        _route("faults", "POST", add_fault),
        _route("faults", "DELETE", remove_faults, {"id"}),
        _route("journal", "GET", show_journal, {"endpoint"}),
        _route("journal", "DELETE", clear_journal),
        _route("settings", "GET", show_settings),
        _route("settings", "POST", change_settings),
    ]


def _route(
    noun: str, method: str, action: Callable[[Request], Awaitable[Response]], parameters: Collection[str] = ()
) -> Route:
    async def respond(request: Request) -> Response:
        try:
            if unknown := set(request.query_params).difference(parameters):
                raise ValueError(f"There is no parameter {sorted(unknown)[0]!r} here.")
            return await action(request)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    return Route(f"/emulator/{noun}", respond, methods=[method])


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ValueError("The body is to be a JSON object.")
    return body
