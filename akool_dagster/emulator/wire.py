"""Below the application: the listening socket, the server's thread, and answers that go wrong on their way."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice, repeat

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from akool_dagster.base.clock import Clock
from akool_dagster.emulator.answers import Answer
from akool_dagster.emulator.errors import EmulatorError
from akool_dagster.emulator.fault_kinds import Options, WireEffect

#: Real seconds: the server's thread lives in them, whatever clock its jobs live by.
START_SECONDS = 10.0
_ZEROS = bytes(1 << 18)


class Holds:
    """Open answers that wait: each until its time is over, its client leaves, or the emulator stops."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._stopped = False
        self._open: set[threading.Event] = set()

    @contextmanager
    def open(self) -> Iterator[threading.Event]:
        """Give an event that is set when the emulator stops; the caller sets it when the client leaves."""
        ended = threading.Event()
        with self._lock:
            self._open.add(ended)
            if self._stopped:
                ended.set()
        try:
            yield ended
        finally:
            ended.set()
            with self._lock:
                self._open.discard(ended)

    async def pause(self, ended: threading.Event, seconds: float) -> None:
        """Wait by the emulator's clock, until the event is set at most."""
        await _in_thread(lambda: self._clock.wait(ended, seconds))

    async def hold(self, ended: threading.Event, seconds: float) -> None:
        """Wait in real time, whatever the emulator's clock: what is waited for is real."""
        await _in_thread(lambda: ended.wait(seconds))

    def stop(self) -> None:
        """End every wait."""
        with self._lock:
            self._stopped = True
            for ended in self._open:
                ended.set()


async def _in_thread(wait: Callable[[], object]) -> None:
    """Wait in a thread of its own: a pool's threads would keep a process from ending that did not stop its emulator."""
    loop = asyncio.get_running_loop()
    over = loop.create_future()

    def run() -> None:
        wait()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if over.done() else over.set_result(None))

    threading.Thread(target=run, name="akool-emulator-hold", daemon=True).start()
    await over


class FaultyResponse(Response):
    """An answer that something happens to on its way; without a connection its client has left already."""

    def __init__(
        self,
        answer: Answer,
        effect: WireEffect,
        options: Options,
        connection: asyncio.Transport | None,
        holds: Holds,
    ) -> None:
        super().__init__(answer.body, answer.http_status, dict(answer.headers), answer.media_type)
        self._effect = effect
        self._options = {name: value for name, value in options.items() if isinstance(value, int | float)}
        self._connection = connection
        self._holds = holds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._connection is None:
            return
        with self._holds.open() as ended:
            gone = asyncio.ensure_future(_client_gone(receive))
            gone.add_done_callback(lambda _: ended.set())
            try:
                if await self._played(self._connection, send, ended):
                    return
                # Until the connection is gone, returning would make the server complain of a missing answer, and
                # send one.
                await gone
            finally:
                gone.cancel()

    async def _played(self, connection: asyncio.Transport, send: Send, ended: threading.Event) -> bool:
        """Play the effect; return whether the answer went out as a whole, so that the connection lives on."""
        half = bytes(self.body[: len(self.body) // 2])
        match self._effect:
            case WireEffect.DELAY:
                await self._holds.pause(ended, self._options["seconds"])
                if not ended.is_set():
                    await self._start(send, sized=True)
                    await send({"type": "http.response.body", "body": bytes(self.body)})
                    return True
            case WireEffect.HOLD:
                await self._holds.hold(ended, self._options["seconds"])
            case WireEffect.RESET_BODY:
                await self._start(send, sized=True)
                await _send_more(send, half)
            case WireEffect.SHORT:
                await self._start(send, sized=True)
                await _send_more(send, half)
                connection.close()
                return False
            case WireEffect.SHORT_UNSIZED:
                # By hand: the server would send an answer without a length in chunks, whose end can be told.
                head = f"HTTP/1.1 {self.status_code} OK\r\nContent-Type: {self.media_type}\r\nConnection: close\r\n\r\n"
                connection.write(head.encode() + half)
                connection.close()
                return False
            case WireEffect.DRIP:
                await self._drip(send, ended)
            case WireEffect.FLOOD:
                await self._flood(send, ended)
                if not ended.is_set():
                    await send({"type": "http.response.body", "body": b""})
                    return True
        _reset(connection)
        return False

    async def _start(self, send: Send, *, sized: bool) -> None:
        headers = [header for header in self.raw_headers if sized or header[0] != b"content-length"]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})

    async def _drip(self, send: Send, ended: threading.Event) -> None:
        await self._start(send, sized=False)
        every = self._options["every"]
        content = chain(bytes(self.body), repeat(0))
        for byte in islice(content, int(self._options["seconds"] / every)):
            await _send_more(send, bytes((byte,)))
            await self._holds.pause(ended, every)
            if ended.is_set():
                return

    async def _flood(self, send: Send, ended: threading.Event) -> None:
        await self._start(send, sized=False)
        left = int(self._options["bytes"])
        while left and not ended.is_set():
            size = min(left, len(_ZEROS))
            await _send_more(send, _ZEROS[:size])
            left -= size
            # Sending to a client that left returns at once, and it is only here that this can be noticed.
            await asyncio.sleep(0)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_more(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _reset(connection: asyncio.Transport) -> None:
    """Abort a connection so that its other end sees a reset, and not an orderly end; unless that left already."""
    if connection.is_closing():
        return
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

    def __init__(self, application: Starlette, holds: Holds) -> None:
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
        self._holds = holds

    def run_until_stopped(self, listener: socket.socket) -> None:
        """Serve in the calling thread."""
        try:
            with listener:
                self.run(sockets=[listener])
        finally:
            self._holds.stop()
            self._decided.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._decided.set()

    def wait_until_serving(self) -> bool:
        """Return whether the server runs."""
        return self._decided.wait(START_SECONDS) and self.started

    def stop(self) -> None:
        """Ask the serving thread to end, and every answer that waits."""
        self.should_exit = True
        self._holds.stop()

    def connection_of(self, client: tuple[str, int]) -> asyncio.Transport | None:
        """Return the open connection from that address and port, or None when its client has left."""
        for protocol in self.server_state.connections:
            if (protocol.transport.get_extra_info("peername") or ())[:2] == client:
                return protocol.transport
        return None
