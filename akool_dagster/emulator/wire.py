"""Below the application: the listening socket, the server's thread, and connections that end too early."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from akool_dagster.emulator.answers import Answer
from akool_dagster.emulator.errors import EmulatorError
from akool_dagster.emulator.faults import Break

#: Real seconds: the server's thread lives in them, whatever clock its jobs live by.
START_SECONDS = 10.0


class BrokenResponse(Response):
    """An answer whose connection ends too early; without a connection its client has left already."""

    def __init__(self, answer: Answer, breaks: Break, connection: asyncio.Transport | None) -> None:
        super().__init__(answer.body, answer.http_status, dict(answer.headers), answer.media_type)
        self._breaks = breaks
        self._connection = connection

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._connection is None:
            return
        if self._breaks is Break.RESET:
            _reset(self._connection)
        else:
            half = bytes(self.body[: len(self.body) // 2])
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": half, "more_body": True})
            self._connection.close()
        # Until the connection is gone, returning would make the server complain of a missing answer, and send one.
        while (await receive())["type"] != "http.disconnect":
            pass


def _reset(connection: asyncio.Transport) -> None:
    """Abort a connection so that its other end sees a reset, and not an orderly end."""
    descriptor: int = connection.get_extra_info("socket").fileno()
    # Not every event loop's socket sets options; a duplicate shares them.
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that clients may connect before the server's loop runs."""
    listener: socket.socket | None = None
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        # With the protocol left at 0, asyncio leaves Nagle's algorithm on, and every answer waits 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
        return listener
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        raise EmulatorError(
            f"The emulator cannot listen on {host} port {port} ({error}). Choose another port, or 0 for a free one."
        ) from error


class Server(uvicorn.Server):
    """Uvicorn in a thread that is not the main one, so that it leaves signals alone."""

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_graceful_shutdown=2,
            )
        )
        self._decided = threading.Event()

    def run_until_stopped(self, listener: socket.socket) -> None:
        """Serve in the calling thread."""
        try:
            with listener:
                self.run(sockets=[listener])
        finally:
            self._decided.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._decided.set()

    def wait_until_serving(self) -> bool:
        """Return whether the server runs."""
        return self._decided.wait(START_SECONDS) and self.started

    def stop(self) -> None:
        """Ask the serving thread to end."""
        self.should_exit = True

    def connection_of(self, client: tuple[str, int]) -> asyncio.Transport | None:
        """Return the open connection from that address and port, or None when its client has left."""
        for protocol in self.server_state.connections:
            if (protocol.transport.get_extra_info("peername") or ())[:2] == client:
                return protocol.transport
        return None
