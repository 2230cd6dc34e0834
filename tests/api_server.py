"""A small HTTP server with scripted answers and clients connected to it, to be made fixtures of."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from akool_dagster.api import AkoolClient, ApiKey, ClientCredentials
from tests.clock import FakeClock

KEY = ApiKey("S3CR3T-key")
PAIR = ClientCredentials("S3CR3T-id", "S3CR3T-secret")
ID = "6891abe782f7cd2a890c44ba"
OTHER = "6891a2295d612f78c9204f77"
OK = {"code": 1000, "msg": "OK", "data": {"result": [{"_id": ID, "status": 1}]}}
Connect = Callable[..., AkoolClient]


@dataclass
class Answer:
    """One scripted answer; ``act`` replaces the plain sending of the body."""

    body: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    act: Callable[[BaseHTTPRequestHandler], None] | None = None


@dataclass(frozen=True)
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: tuple[str, int]

    @property
    def auth(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name in ("x-api-key", "authorization")}


class ScriptedServer:
    """Answers requests from ``script`` in order, the last one for ever; or from ``respond`` when that is set."""

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.respond: Callable[[Seen], Answer] | None = None
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, body, self.client_address)
                with outer.lock:
                    outer.seen.append(seen)
                    if outer.respond is None:
                        answer = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                if outer.respond is not None:
                    answer = outer.respond(seen)
                if answer.act is not None:
                    with contextlib.suppress(OSError):
                        answer.act(self)
                    return
                raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(raw)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_POST = do_CONNECT = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}"
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.httpd.shutdown()
        self.httpd.server_close()
        self.thread.join()


def serve() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    server.script = [Answer(OK)]
    yield server
    server.close()


def connecting(server: ScriptedServer, clock: FakeClock) -> Iterator[Callable[..., AkoolClient]]:
    with contextlib.ExitStack() as stack:

        def connect(credentials: ApiKey | ClientCredentials = KEY, **options: Any) -> AkoolClient:
            settings: dict[str, Any] = {"base_url": server.url, "clock": clock, "rng": random.Random(1)}
            return stack.enter_context(AkoolClient(credentials, **{**settings, **options}))

        yield connect


def reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True
