"""A scripted HTTP server on loopback that serves videos, and everything a CDN may answer instead."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

MOST_DRIPS = 1000


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one path answers. ``length`` overrides Content-Length; ``None`` sends none and closes."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = -1
    chunked: bool = False
    hold: threading.Event | None = None
    """Wait for this after half of the body was sent, for at most ten seconds: then the server gave up."""
    hold_head: bool = False
    """Wait in the middle of the head instead."""
    drip: bool = False
    """Send a byte now and then while waiting: no read ever waits long."""


class VideoServer:
    """``answers`` maps a path to an `Answer`, or to a function that makes one from the number of the request."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer | Callable[[int], Answer]] = {}
        self.requests: list[tuple[str, Mapping[str, str]]] = []
        self.connections = 0
        self.sending = threading.Event()
        self.gave_up = False
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        if ssl_context is not None:
            self._server.socket = ssl_context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> VideoServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.base_url}{path}"

    def serve(self, path: str, body: bytes, **options: Any) -> str:
        """Let a path answer with a body and return its URL."""
        self.answers[path] = Answer(body=body, **options)
        return self.url(path)

    def count(self, path: str) -> int:
        return sum(1 for asked, _ in self.requests if asked == path)


class _Server(ThreadingHTTPServer):
    owner: VideoServer
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that go away are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    timeout = 10

    def setup(self) -> None:
        super().setup()
        self.server.owner.connections += 1

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server.owner
        path = self.path.partition("?")[0]
        owner.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        answer = owner.answers.get(path, Answer(status=404, body=b"<Error>NoSuchKey</Error>"))
        if not isinstance(answer, Answer):
            answer = answer(sum(1 for asked, _ in owner.requests if asked.partition("?")[0] == path))
        if answer.hold is not None and answer.hold_head:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self._hold(answer.hold, b"a" * MOST_DRIPS if answer.drip else b"")
            self.wfile.write(b"\r\n")
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        length = len(answer.body) if answer.length == -1 else answer.length
        if answer.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif length is None:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        half = len(answer.body) // 2
        body = memoryview(answer.body)
        self._send(body[:half], chunked=answer.chunked)
        if answer.hold is not None and not answer.hold_head:
            half += self._hold(answer.hold, answer.body[half:] if answer.drip else b"")
        self._send(body[half:], chunked=answer.chunked)
        if answer.chunked:
            self.wfile.write(b"0\r\n\r\n")
        if length is not None and length > len(answer.body):
            self.close_connection = True

    def _hold(self, hold: threading.Event, drops: bytes) -> int:
        """Wait for the event, and send a drop every few milliseconds; return how many it was."""
        self.wfile.flush()
        self.server.owner.sending.set()
        for number in range(MOST_DRIPS):
            if hold.wait(10 / MOST_DRIPS):
                return min(number, len(drops))
            self.wfile.write(drops[number : number + 1])  # raises when the client went away
        self.server.owner.gave_up = True
        return min(MOST_DRIPS, len(drops))

    def _send(self, data: memoryview, *, chunked: bool) -> None:
        if chunked and data:
            self.wfile.write(f"{len(data):x}\r\n".encode())
            self.wfile.write(data)
            self.wfile.write(b"\r\n")
        else:
            self.wfile.write(data)
