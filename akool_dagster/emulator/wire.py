"""What faults do to a connection: late, cut, endless and missing answers."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice, repeat

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from akool_dagster.base.clock import Clock
from akool_dagster.emulator.web_server import WebServer

_ZEROS = bytes(1 << 18)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """An answer on its way to one client. Seconds are those of ``clock``."""

    response: Response
    options: Mapping[str, float]
    connection: asyncio.Transport
    send: Send
    ended: threading.Event
    """Set when the client leaves, and when the emulator stops."""
    clock: Clock

    @property
    def body(self) -> bytes:
        """The whole body."""
        return bytes(self.response.body)

    @property
    def half(self) -> bytes:
        """The first half of the body."""
        return self.body[: len(self.body) // 2]

    async def start(self, *, sized: bool) -> None:
        """Send status line and headers, with or without the ``Content-Length``."""
        headers = [header for header in self.response.raw_headers if sized or header[0] != b"content-length"]
        await self.send({"type": "http.response.start", "status": self.response.status_code, "headers": headers})

    async def more(self, body: bytes, *, last: bool = False) -> None:
        """Send a piece of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": not last})

    async def pause(self, seconds: float) -> None:
        """Wait by the emulator's clock, until ``ended`` at most."""
        await _in_thread(lambda: self.clock.wait(self.ended, seconds))


Effect = Callable[[Delivery], Awaitable[bool]]
"""Plays a fault. Returns whether the answer went out as a whole; else the connection is reset, if still open."""


async def delay(to: Delivery) -> bool:
    """Send the whole answer, some seconds late."""
    await to.pause(to.options["seconds"])
    if to.ended.is_set():
        return False
    await to.start(sized=True)
    await to.more(to.body, last=True)
    return True


async def reset(to: Delivery) -> bool:
    """Send nothing."""
    return False


async def hold(to: Delivery) -> bool:
    """Send nothing for so many real seconds, whatever the emulator's clock: the client's wait is real."""
    await _in_thread(lambda: to.ended.wait(to.options["seconds"]))
    return False


async def reset_body(to: Delivery) -> bool:
    """Send half of the body."""
    await to.start(sized=True)
    await to.more(to.half)
    return False


async def shorten(to: Delivery) -> bool:
    """Send half of the body under the ``Content-Length`` of the whole, and close in good order."""
    await reset_body(to)
    to.connection.close()
    return False


async def shorten_unsized(to: Delivery) -> bool:
    """Send half of the body without a ``Content-Length``, and close in good order."""
    # By hand: the server would send an answer without a length in chunks, whose end can be told.
    kind, status = to.response.media_type, to.response.status_code
    head = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n"
    to.connection.write(head.encode() + to.half)
    to.connection.close()
    return False


async def drip(to: Delivery) -> bool:
    """Send the body byte by byte, and then zeros, for so many seconds."""
    await to.start(sized=False)
    every = to.options["every"]
    for byte in islice(chain(to.body, repeat(0)), int(to.options["seconds"] / every)):
        await to.more(bytes((byte,)))
        await to.pause(every)
        if to.ended.is_set():
            break
    return False


async def flood(to: Delivery) -> bool:
    """Send so many zeros without a ``Content-Length``."""
    await to.start(sized=False)
    left = int(to.options["bytes"])
    while left and not to.ended.is_set():
        size = min(left, len(_ZEROS))
        await to.more(_ZEROS[:size])
        left -= size
        # Sending to a client that left returns at once, and only here can that be noticed.
        await asyncio.sleep(0)
    if left:
        return False
    await to.more(b"", last=True)
    return True


class FaultyResponse(Response):
    """An answer that something happens to on its way; without a connection its client has left already."""

    def __init__(self, response: Response, effect: Effect, options: Mapping[str, float], clock: Clock) -> None:
        super().__init__()
        self._response = response
        self._effect = effect
        self._options = options
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server: WebServer = scope["app"].state.server
        connection = server.connection_of(tuple(scope["client"]))
        if connection is None:
            return
        ended = server.open_wait()
        gone = asyncio.ensure_future(_client_gone(receive))
        gone.add_done_callback(lambda _: ended.set())
        delivery = Delivery(
            response=self._response,
            options=self._options,
            connection=connection,
            send=send,
            ended=ended,
            clock=self._clock,
        )
        try:
            if not await self._effect(delivery):
                _reset(connection)
                # Until the connection is gone, returning would make the server complain of a missing answer, and
                # send one.
                await gone
        finally:
            gone.cancel()
            server.close_wait(ended)


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


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


def _reset(connection: asyncio.Transport) -> None:
    """Abort a connection so that its other end sees a reset, and not an orderly end; unless that left already."""
    if connection.is_closing():
        return
    descriptor: int = connection.get_extra_info("socket").fileno()
    # Not every event loop's socket sets options; a duplicate shares them.
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.abort()
