"""The listening socket, and uvicorn in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress

import uvicorn
from starlette.applications import Starlette

from akool_dagster.emulator.errors import EmulatorError

#: Real seconds: the server's thread lives in them, whatever clock its jobs live by.
_LONGEST_START = _LONGEST_STOP = 10.0


class WebServer(uvicorn.Server):
    """Serves an application in a thread that is not the main one, so that signals are left alone.

    The application finds this server as ``app.state.server``.
    """

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
        application.state.server = self
        self._waits: set[threading.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_asked = asyncio.Event()
        self._decided = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, listener: socket.socket) -> None:
        """Serve what the socket accepts. Raises `EmulatorError` when that does not begin within ten seconds."""
        self._thread = threading.Thread(
            target=self._serve_until_stopped, args=(listener,), name="akool-emulator", daemon=True
        )
        self._thread.start()
        if not (self._decided.wait(_LONGEST_START) and self.started):
            self.stop()
            raise EmulatorError("The emulator's server did not start; its log says why.")

    def stop(self) -> None:
        """Close every connection and end the thread. Raises `EmulatorError` when that takes over ten seconds."""
        self.should_exit = True
        with suppress(RuntimeError):  # the loop has ended
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop_asked.set)
        if self._thread is not None:
            self._thread.join(_LONGEST_STOP)
            if self._thread.is_alive():
                raise EmulatorError("The emulator's server did not stop.")

    def connection_of(self, client: tuple[str, int]) -> asyncio.Transport | None:
        """Return the open connection from that address and port, or None when its client has left."""
        for protocol in self.server_state.connections:
            if (protocol.transport.get_extra_info("peername") or ())[:2] == client:
                return protocol.transport
        return None

    def open_wait(self) -> threading.Event:
        """Return an event that is set when the server stops. Call it, and `close_wait`, in the server's thread."""
        ended = threading.Event()
        self._waits.add(ended)
        if self.should_exit:
            ended.set()
        return ended

    def close_wait(self, ended: threading.Event) -> None:
        """Set the event, and forget it."""
        ended.set()
        self._waits.discard(ended)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self._decided.set()

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether to stop.
        if not self.should_exit:
            await self._stop_asked.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for ended in self._waits:
            ended.set()
        await super().shutdown(sockets=sockets)

    def _serve_until_stopped(self, listener: socket.socket) -> None:
        try:
            with listener:
                self.run(sockets=[listener])
        finally:
            self._decided.set()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that clients may connect before the server's loop runs.

    Raises `EmulatorError` when the address cannot be had.
    """
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
