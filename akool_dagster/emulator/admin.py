"""The paths below ``/emulator/``, which Akool does not have: faults, journal and limits of a running emulator."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from akool_dagster.emulator.fault_descriptions import describe, switch_on
from akool_dagster.emulator.faults import FaultSource, FaultSwitch
from akool_dagster.emulator.journal import Journal
from akool_dagster.emulator.service import AkoolService

_Action = Callable[[Mapping[str, str], Mapping[str, object]], Response]


def admin_routes(faults: FaultSwitch, journal: Journal, service: AkoolService) -> list[Route]:
    """Return the routes. Whatever they cannot understand is answered 400 with ``{"error": sentence}``."""
    admin = _Admin(faults, journal, service)
    actions: tuple[tuple[str, str, _Action, set[str]], ...] = (
        ("faults", "GET", admin.show_faults, set()),
        ("faults", "POST", admin.add_fault, set()),
        ("faults", "DELETE", admin.remove_faults, {"id"}),
        ("journal", "GET", admin.show_journal, {"endpoint"}),
        ("journal", "DELETE", admin.clear_journal, set()),
        ("settings", "GET", admin.show_settings, set()),
        ("settings", "POST", admin.change_settings, set()),
    )
    return [
        Route(f"/emulator/{noun}", _guarded(action, parameters), methods=[method])
        for noun, method, action, parameters in actions
    ]


def _guarded(action: _Action, parameters: set[str]) -> Callable[[Request], object]:
    async def respond(request: Request) -> Response:
        try:
            query = dict(request.query_params)
            if unknown := query.keys() - parameters:
                raise ValueError(f"There is no parameter {sorted(unknown)[0]!r} here.")
            return action(query, _body(await request.body()) if request.method == "POST" else {})
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)

    return respond


def _body(raw: bytes) -> Mapping[str, object]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ValueError("The body is to be a JSON object.")
    return body


class _Admin:
    def __init__(self, faults: FaultSwitch, journal: Journal, service: AkoolService) -> None:
        self._faults = faults
        self._journal = journal
        self._service = service

    def show_faults(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        return JSONResponse({"faults": [self._described(source) for source in self._faults.active]})

    def add_fault(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        return JSONResponse(self._described(switch_on(self._faults, body)), 201)

    def remove_faults(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        if "id" not in query:
            self._faults.clear()
            return Response(status_code=204)
        for source in self._faults.active:
            if str(source.number) == query["id"]:
                self._faults.remove(source)
                return Response(status_code=204)
        raise ValueError(f"No fault with the id {query['id']!r} is on.")

    def show_journal(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        endpoint = query.get("endpoint")
        requests = self._journal.requests if endpoint is None else self._journal.calls(endpoint)
        return JSONResponse({"requests": [asdict(request) for request in requests]})

    def clear_journal(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        self._journal.clear()
        return Response(status_code=204)

    def show_settings(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        return JSONResponse({"max_ids_per_call": self._service.max_ids_per_call})

    def change_settings(self, query: Mapping[str, str], body: Mapping[str, object]) -> Response:
        if body.keys() != {"max_ids_per_call"}:
            raise ValueError("The only setting is 'max_ids_per_call': a number from 1, or null for no limit.")
        self._service.max_ids_per_call = body["max_ids_per_call"]  # type: ignore[assignment]  # the setter checks
        return self.show_settings(query, body)

    def _described(self, source: FaultSource) -> dict[str, object]:
        return describe(source, self._faults.times_left(source))
